"""Feature maps of FP32 beside an engine's, and how each block's channels set its INT8 scale.

In: the FP32 and the quantized graph, the calibration set, and an evaluation image.
Out: `channels.json`, `features.png` and `attention.png`.
"""
