"""Real networks on ExecuTorch: XNNPACK takes every product, INT8 where the dialect says so, and the logits are the graph's."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch

from calib.calibration import CalibrationSet
from calib.images import read_split
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend
from export.engines.executorch import backend
from export.faults.rounding import allowed_db, snr_db
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import quantize_int8
from export.runner import Engine

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow

# By network: its products in INT8, and those that stay in FP32. Of transformers one block is left.
NETWORKS = {
    "t2t_vit_mini": (10, 18),
    "t2t_vit_t_mini": (10, 14),
    "vit_tiny_patch16_224": (4, 4),
    "resnet18": (20, 1),
    "mobilenetv2_050": (52, 1),
}


@pytest.fixture(scope="module")
def calibration(image_root: Path, spec: Preprocess) -> CalibrationSet:
    split = read_split(image_root, "val")
    return CalibrationSet(load_batch(list(split.paths), spec), np.asarray(split.labels))


def export(name: str, spec: Preprocess, folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / f"{name}.onnx"
    options = {"img_size": spec.height} if name.startswith("vit_") else {}
    network = timm.create_model(name, num_classes=3, **options).eval()
    if "vit" in name:
        network.blocks = network.blocks[:1]
    export_onnx(network, spec, ["a", "b", "c"], path)
    return path


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    """On ONNX Runtime as the graph is written, or on ExecuTorch."""
    graph = path.suffix == ".onnx"
    with onnxruntime_backend.load(path, 1, literal=True) if graph else backend.load(path, 1) as runner:
        return np.asarray(runner.infer({INPUT: images})[OUTPUT])


def check_taken(engine: Engine, int8: int, fp32: int) -> None:
    assert engine.layers == {"int8": int8, "fp16": 0, "fp32": fp32}
    assert engine.notes == {"portable": {"cast": 1}}, "the image, which XNNPACK does not take as bytes"


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_is_computed_as_the_graph_says(
    name: str, spec: Preprocess, calibration: CalibrationSet, tmp_path: Path
) -> None:
    source, path, images = export(name, spec, tmp_path), tmp_path / "int8.onnx", calibration.first(8)
    quantize_int8(source, path, calibration, dialect=DIALECTS["executorch"])
    engine = backend.build(path, tmp_path / backend.ENGINE_NAME)
    check_taken(engine, *NETWORKS[name])
    written, found = logits(path, images), logits(engine.path, images)
    assert snr_db(found, written) > max(allowed_db(written, logits(source, images)), 20), name
    assert engine.path.stat().st_size < 0.7 * source.stat().st_size


def test_fp32_is_computed_as_the_graph_says(spec: Preprocess, calibration: CalibrationSet, tmp_path: Path) -> None:
    """A performer, exported as it is written: its soft splits' weights are made when it is lowered."""
    source, images = export("t2t_vit_mini", spec, tmp_path), calibration.first(8)
    assert any(node.op_type == "ReduceSum" for node in onnx.load(source).graph.node)
    engine = backend.build(source, tmp_path / backend.ENGINE_NAME)
    check_taken(engine, 0, sum(NETWORKS["t2t_vit_mini"]))
    assert snr_db(logits(engine.path, images), logits(source, images)) > 100
