"""What a recipe leaves open, filled in: from its network, its images and their number.

In: a recipe as it was written.
Out: the same recipe with every value that it did not state, and lines that say where each came from.
"""
