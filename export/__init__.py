"""What comes out of a network: ONNX, simplification, precision casts, Q/DQ, engines (one file per backend)."""
