"""Tiny networks and Inductor's engines of them, each compiled once for a test run: g++ takes most of a minute for all."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from once import Once

from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.engines.engine import build_engine
from export.engines.pytorch import inductor_backend
from export.engines.spec import EngineSpec, graph_of
from export.onnx_export import export_onnx
from export.quantize.dialects import DIALECTS
from export.quantize.fp32_tensors import list_fp32_tensors
from export.quantize.int8 import quantize_int8
from export.simplify import simplify_onnx

# By name, the side of the images and the options; of transformers one block is left.
NETWORKS: dict[str, tuple[int, dict[str, int]]] = {
    "t2t_vit_mini": (32, {}),
    "test_vit": (64, {"img_size": 64}),
    "test_resnet": (64, {}),
}


def write_graphs(folder: Path, name: str, photos: np.ndarray) -> None:
    side, options = NETWORKS[name]
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3, **options).eval()
    if "vit" in name:
        network.blocks = network.blocks[:1]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
    spec = Preprocess(side, side, 1.0, "bilinear", (0.3,) * 3, (0.35,) * 3)
    images = own_images(photos, name)
    export_onnx(network, spec, list("abc"), folder / "raw.onnx")
    simplify_onnx(folder / "raw.onnx", folder / "simple.onnx", images[:2])
    onnx.save(list_fp32_tensors(onnx.load(folder / "simple.onnx")), folder / f"{name}.onnx")
    calibration = CalibrationSet(images, np.zeros(len(images), np.int64))
    quantize_int8(folder / "simple.onnx", folder / "simple-int8.onnx", calibration, dialect=DIALECTS["inductor"])
    onnx.save(list_fp32_tensors(onnx.load(folder / "simple-int8.onnx")), folder / f"{name}-int8.onnx")


def own_images(photos: np.ndarray, name: str) -> np.ndarray:
    """The photographs in the size of a network."""
    step = photos.shape[1] // NETWORKS[name][0]
    return np.ascontiguousarray(photos[:, ::step, ::step])


class Engines:
    """Inductor's engines of the networks, built when they are first asked for."""

    def __init__(self, once: Once, graphs: Path):
        self._once, self._graphs = once, graphs

    def graph(self, name: str, precision: str) -> Path:
        """What an engine is built from."""
        return self._graphs / (f"{name}-int8.onnx" if "int8" in graph_of("inductor", precision) else f"{name}.onnx")

    def folder(self, name: str, precision: str) -> Path:
        """The engine's folder, with its sidecar."""
        return (
            self._once(f"inductor_{name}_{precision}", lambda place: self._build(name, precision, place / "engine"))
            / "engine"
        )

    def _build(self, name: str, precision: str, folder: Path) -> None:
        side = NETWORKS[name][0]
        spec = Preprocess(side, side, 1.0, "bilinear", (0.3,) * 3, (0.35,) * 3)
        with pytest.MonkeyPatch.context() as patch:
            # CPUs with AVX-512 alone emulate it, which no user gets
            patch.setattr(inductor_backend, "bf16_instructions", lambda: ["emulated"])
            engine = EngineSpec("inductor", precision, None, (1, 1, 8))
            build_engine(engine, self.graph(name, precision), folder, spec, list("abc"))
