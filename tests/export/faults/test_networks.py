"""A network that OpenVINO 2026.4.1 computes as zeros: with random weights its convolutions have no bias."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import timm
import torch

from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.faults.computing import on_engine, on_reference
from export.faults.first_wrong import Comparison
from export.faults.recover import recover
from export.faults.without_qdq import quantized_nodes
from export.onnx_export import OUTPUT, export_onnx
from export.quantize.int8 import quantize_int8
from export.simplify import simplify_onnx

pytestmark = pytest.mark.slow
SIDE = 96


def test_mobilenetv4_is_recovered_with_few_layers_out_of_int8(
    tmp_path: Path, photographs: dict[str, np.ndarray]
) -> None:
    pytest.importorskip("openvino")
    grey = photographs["val_images"][:16]
    images = np.stack([cv2.resize(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), (SIDE, SIDE)) for image in grey])
    calibration = CalibrationSet(images, np.zeros(len(images), np.int64))
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv4_conv_small", num_classes=10).eval()
    spec = Preprocess(SIDE, SIDE, 0.9, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    export_onnx(model, spec, [str(label) for label in range(10)], tmp_path / "fp32.onnx")
    simplify_onnx(tmp_path / "fp32.onnx", tmp_path / "fp32.onnx", calibration.first(2))
    quantize_int8(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", calibration)
    proto = onnx.load(tmp_path / "int8.onnx")
    engine, reference = on_engine("openvino", images[::4], 1), on_reference(images[::4], 1)
    assert Comparison(proto, engine, reference).measure(OUTPUT).wrong
    recovery = recover(proto, engine, reference)
    assert recovery is not None and recovery.proto is not None
    assert (recovery.wrong.operator, recovery.wrong.role) == ("Add", "residual")
    right = Comparison(recovery.proto, engine, reference).measure(OUTPUT)
    assert not right.wrong and right.snr_db > 20
    before, after = len(quantized_nodes(proto)), len(quantized_nodes(recovery.proto))
    assert after == before - len(recovery.left_out) and 0 < len(recovery.left_out) <= 4
