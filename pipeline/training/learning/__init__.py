"""What a task's training is: augmented samples, the loss, the score after an epoch. `pipeline.tasks` has the other half.

In: the images of a split with their labels, the recipe's `train`.
Out: data sets, loss functions, counts and scores.
"""
