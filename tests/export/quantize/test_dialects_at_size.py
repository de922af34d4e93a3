"""Two networks at the size that people deploy, 224 px: how many of their products each CPU engine really computes in INT8.

Where a CPU has instructions for INT8 these numbers are the speed (docs/quantization.md); they are the same on every CPU.
"""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import models  # noqa: F401  (registers the models)
from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend, openvino_backend
from export.onnx_export import export_onnx
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import QuantizeOptions, quantize_int8
from export.simplify import simplify_onnx

pytestmark = pytest.mark.slow

SIZE = 224
SPEC = Preprocess(SIZE, SIZE, 0.9, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write_int8(network: str, backend: str, folder: Path) -> Path:
    """The network with random weights in the INT8 dialect of an engine, calibrated on two images of noise."""
    torch.manual_seed(0)
    model, fp32 = timm.create_model(network, num_classes=10).eval(), folder / "fp32.onnx"
    export_onnx(model, SPEC, [str(label) for label in range(10)], folder / "raw.onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    simplify_onnx(folder / "raw.onnx", fp32, images)
    calibration = CalibrationSet(images, np.full(len(images), -1))
    quantize_int8(fp32, folder / "int8.onnx", calibration, QuantizeOptions(), DIALECTS[backend])
    return folder / "int8.onnx"


def test_t2t_vit_7_on_openvino_has_at_most_nine_products_left(tmp_path: Path) -> None:
    engine = openvino_backend.build(
        write_int8("t2t_vit_7", "openvino", tmp_path), tmp_path / openvino_backend.ENGINE_NAME
    )
    assert engine.layers is not None
    left = engine.layers["fp32"]
    assert left <= 9 and left + engine.layers["int8"] >= 40, engine.layers


def test_resnet50_on_onnxruntime_has_at_most_one_product_left(tmp_path: Path) -> None:
    path = write_int8("resnet50", "onnxruntime", tmp_path)
    engine = onnxruntime_backend.build(path, tmp_path / onnxruntime_backend.ENGINE_NAME)
    assert engine.layers is not None
    assert engine.layers["int8"] >= 53 and engine.layers["int8"] + engine.layers["fp32"] == 54, engine.layers
