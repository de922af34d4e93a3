"""From the checkpoint to a graph for each precision: export, calibration set, quantization-aware training (QAT), Q/DQ.

In: the train stage's checkpoint, and images for calibration, QAT and comparison.
Out: `fp32.onnx`, `calibration.npz`, and `<precision>.onnx` with the decision for each layer.
"""
