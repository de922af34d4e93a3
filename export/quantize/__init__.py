"""The numbers of a quantized graph: ranges, scales, Q/DQ nodes, SmoothQuant, 2:4 sparsity, casts to FP16.

In: an FP32 graph, the decisions of `calib.precision.policy`, and a calibration set.
Out: a graph with its precision written into it, for any backend.
"""
