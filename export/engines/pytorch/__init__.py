"""Engines that PyTorch itself runs: compiled ahead of time by its Inductor, and eager, the baseline that everybody knows.

In: an ONNX graph, read as a program of PyTorch.
Out: a compiled package or the graph, and a `Runner` for it.
"""
