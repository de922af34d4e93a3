"""Which layer gets which precision, decided on numbers alone: policies, sensitivity, search, channel statistics.

In: the layers of a graph, and what measurements say of them.
Out: decisions, rankings and mixes of precisions; nothing here knows of ONNX or of files.
"""
