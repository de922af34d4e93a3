"""From the checkpoint to a graph for each precision: export, calibration set, quantization-aware training, Q/DQ.

In: the train stage's checkpoint, and training images.
Out: `fp32.onnx`, `calibration.npz`, and `<precision>.onnx` with the decisions behind it.
"""
