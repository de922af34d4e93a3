"""Train a network in one process or several, resume an interrupted training, read and write checkpoints.

In: a recipe and its images, or a checkpoint file.
Out: `checkpoint.pt`, `last.pt` to resume from, `metrics.csv`, and the network of a checkpoint.
"""
