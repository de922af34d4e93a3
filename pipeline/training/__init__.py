"""Train a network on one process or many, go on after an interruption, and write its checkpoint.

In: a recipe and the image splits.
Out: `checkpoint.pt`, `metrics.csv` and the network that they hold.
"""
