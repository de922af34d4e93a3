"""The backends `tensorrt` and `tensorrt_rtx`: builder, layer reports, CUDA memory and graphs, timing cache.

In: an ONNX graph with its precision in it, batch sizes and build options.
Out: a plan, the layers that the builder made, and a runner on the GPU.
"""
