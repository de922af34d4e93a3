"""Read an exported ONNX graph and write nodes into it: layers, their roles, which call of the network made a node.

In: an `onnx.ModelProto`, or the PyTorch network that it was exported from.
Out: plain rows about its layers, tensors to look at, and new nodes with names of their own.
"""
