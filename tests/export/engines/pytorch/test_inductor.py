"""Networks compiled by Inductor: logits against ONNX Runtime node by node, and what their products compute in."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch_engines import Engines, own_images

from export.engines import onnxruntime_backend
from export.engines.engine import load_engine
from export.engines.pytorch import inductor_backend
from export.engines.pytorch.inductor_backend import build
from export.faults.rounding import snr_db
from export.onnx_export import INPUT, OUTPUT
from export.runner import Unavailable


pytestmark = pytest.mark.slow
# Network and precision: its products in INT8, in BF16 and in FP32, and how near its logits are to its graph's, dB.
ENGINES = [
    ("t2t_vit_mini", "fp32", {"int8": 0, "fp16": 0, "fp32": 28}, 100),
    ("t2t_vit_mini", "int8", {"int8": 14, "fp16": 0, "fp32": 12}, 30),
    ("t2t_vit_mini", "int8-bf16", {"int8": 14, "fp16": 0, "bf16": 4, "fp32": 8}, 25),
    ("test_vit", "int8", {"int8": 4, "fp16": 0, "fp32": 4}, 30),
    ("test_resnet", "int8", {"int8": 10, "fp16": 0, "fp32": 1}, 30),
]


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    """What a graph computes, node by node."""
    with onnxruntime_backend.load(path, 1, literal=True) as runner:
        return np.asarray(runner.infer({INPUT: images})[OUTPUT])


@pytest.mark.parametrize(("name", "precision", "layers", "least"), ENGINES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_engine_computes_its_graph_by_kernels_of_its_precision(
    engines: Engines, photos: np.ndarray, name: str, precision: str, layers: dict[str, int], least: float
) -> None:
    images = own_images(photos, name)
    sidecar, runner = load_engine(engines.folder(name, precision), 1)
    assert sidecar.layers == layers and sidecar.notes is None
    with runner:
        assert runner.inputs[0].shape == (1, *images.shape[1:]) and runner.inputs[0].dtype == "uint8"
        assert runner.outputs[0].name == OUTPUT and runner.outputs[0].dtype == "float32"
        found = runner.infer({INPUT: images})[OUTPUT]
    snr = snr_db(logits(engines.graph(name, precision), images), found)
    print(name, precision, sidecar.layers, snr)
    assert snr > least
