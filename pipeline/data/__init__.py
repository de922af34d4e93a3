"""The images of a recipe: folders, an npz archive, WebDataset shards or a Hugging Face data set; and batches of them.

In: the recipe's part `data`.
Out: image folders, the splits `train` and `val` with their classes, and preprocessed batches.
"""
