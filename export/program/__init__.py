"""Read an ONNX graph, quantized or not, into PyTorch's own graph, for engines that PyTorch builds.

In: an `onnx.ModelProto` of any precision and dialect.
Out: a `torch.export.ExportedProgram` of ATen operators, with PT2E's quantize and dequantize operators for Q/DQ.
"""
