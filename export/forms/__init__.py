"""Equal forms of one graph: each file rewrites a part of it so that a target runs it with fewer kernels.

In: an `onnx.ModelProto` as it was exported.
Out: a graph with the same results up to rounding; tests compare each form with the graph before it.
"""
