"""Build, check and load engines: one file, or one folder, for each backend, all behind one runner contract.

In: an ONNX graph and an `EngineSpec`.
Out: a folder with the engine and its sidecar, and a `Runner` that computes with it.
"""
