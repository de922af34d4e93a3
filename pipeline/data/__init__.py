"""What a recipe's images are: embedded sets, folders, Hugging Face; and how they are read in batches.

In: the recipe's part `data`.
Out: image splits with their classes, and preprocessed batches.
"""
