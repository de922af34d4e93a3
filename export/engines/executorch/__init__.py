"""ExecuTorch on the CPU: a program of PyTorch, lowered to XNNPACK, which is what phones run; here in a process of its own.

In: an ONNX graph, FP32 or with the Q/DQ of XNNPACK's dialect.
Out: a `.pte` for a fixed number of images, and a runner that computes with it.
"""
