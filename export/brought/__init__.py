"""Networks that come as an ONNX file: what can be taken, and the same network with our input in front.

In: an ONNX file with FP32 weights, an image input and a tensor of class scores; the preprocessing that it was trained with.
Out: a graph as `export.onnx_export` writes one, and the file's own logits to compare it with.
"""
