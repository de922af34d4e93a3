"""What differs between tasks: labels, answers, scores, comparisons, and what all of these are called.

In: an engine's logits, and the labels of the evaluation images.
Out: answers, scores in percent, their difference from FP32's with its interval, and what changed.
"""
