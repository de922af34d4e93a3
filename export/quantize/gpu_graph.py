"""The graph that GPUs get: the fewest kernels, FP16, and the token performer's kernel pinned to FP32."""

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx

from calib.calibration import CalibrationSet
from calib.precision.policy import performer_kernel
from export.forms.few_kernels import Rewritten, few_kernels
from export.graph.layers import read_layers
from export.quantize.cast_fp16 import cast_fp16


def write_gpu_graph(
    proto: onnx.ModelProto, target: Path, calibration: CalibrationSet, quantized: Collection[str]
) -> Rewritten:
    """Write `proto`, FP32 with or without Q/DQ, to `target`; says which token attentions were rewritten.

    `quantized` are the names of its quantized layers, which are not pinned. RuntimeError as in `cast_fp16`.
    """
    few, rewritten = few_kernels(proto)
    pinned = [layer.name for layer in performer_kernel(read_layers(few)) if layer.name not in quantized]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "fp32.onnx"
        onnx.save(few, source)
        cast_fp16(source, target, calibration, pinned)
    return rewritten
