"""Where an engine does not compute its INT8 graph: the first wrong node, and the graph without INT8 in its pattern.

In: an ONNX graph with Q/DQ, and two functions that compute a graph: the engine's, and a reference's that computes as written.
Out: the node, its pattern, the layers that leave INT8, and the graph that the engine computes right.
"""
