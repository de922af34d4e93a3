"""Build engines, check their accuracy against PyTorch FP32, measure their latency, and the statistics for both.

In: the graphs of the quantize stage, and the evaluation images.
Out: engines, `evaluation.json` and `benchmark.json`.
"""
