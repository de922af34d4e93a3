"""Feature maps of FP32 beside an engine's, and what each block's channels do to its INT8 scales.

In: the calibration set, the graphs and the engine.
Out: `channels.json`, `features.png` and `attention.png`.
"""
