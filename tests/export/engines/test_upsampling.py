"""Up-sampling as the segmentation networks have it, against its definition in float64, on both CPU engines; also between Q/DQ."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.engines import onnxruntime_backend, openvino_backend

INPUT, OUTPUT = "images", "logits"
SHAPE = (2, 20, 5, 7)
Floats = NDArray[np.floating]
MODES: dict[str, dict[str, str]] = {
    "linear": {"coordinate_transformation_mode": "half_pixel"},
    "nearest": {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
}


def up_sampled(values: Floats, mode: str, factor: int) -> NDArray[np.float64]:
    """(N, C, H, W) → (N, C, factor · H, factor · W): ONNX's Resize, written out axis by axis."""
    result = values.astype(np.float64)
    for axis in (2, 3):
        count = result.shape[axis]
        at = np.arange(factor * count) / factor
        if mode == "linear":
            at = np.clip((np.arange(factor * count) + 0.5) / factor - 0.5, 0, count - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, count - 1)
        share = (at - low if mode == "linear" else np.zeros(len(at))).reshape(-1, *[1] * (3 - axis))
        result = result.take(low, axis) * (1 - share) + result.take(high, axis) * share
    return result


def graph(mode: str, factor: int, kind: str, scale: float) -> onnx.ModelProto:
    """A Resize: of floats, behind a DequantizeLinear, or between two pairs of Q/DQ of uint8 with zero point 128."""
    constants = [numpy_helper.from_array(np.array(value, dtype), name) for name, value, dtype in (
        ("factors", [1, 1, factor, factor], np.float32), ("scale", scale, np.float32), ("zero", 128, np.uint8),
    )]  # fmt: skip
    before, after = ("images", "logits") if kind == "floats" else ("taken", "logits" if kind == "behind" else "made")
    nodes = [helper.make_node("Resize", [before, "", "factors"], [after], mode=mode, **MODES[mode])]
    if kind != "floats":
        nodes = [*pair("images", before), *nodes]
    if kind == "between":
        nodes += pair(after, "logits")
    sides = {INPUT: SHAPE, OUTPUT: (*SHAPE[:2], factor * SHAPE[2], factor * SHAPE[3])}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape[1:]]) for name, shape in sides.items()]
    body = helper.make_graph(nodes, "up", infos[:1], infos[1:], constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def pair(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{target}_int8"]),
        helper.make_node("DequantizeLinear", [f"{target}_int8", "scale", "zero"], [target]),
    ]


def on_engine(backend: str, proto: onnx.ModelProto, values: Floats, folder: Path) -> Floats:
    onnx.save(proto, folder / "graph.onnx")
    runner: Any
    if backend == "openvino":
        runner = openvino_backend.load(openvino_backend.convert(folder / "graph.onnx", folder / "graph.xml"), 1)
    else:
        runner = onnxruntime_backend.load(folder / "graph.onnx", 1)
    with runner:
        found: Floats = runner.infer({INPUT: values})[OUTPUT]
    return found


@pytest.fixture(scope="module")
def values() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("mode", "factor"), [("linear", 2), ("linear", 4), ("nearest", 2)])
def test_up_sampling_is_exact(
    backend: str, mode: str, factor: int, values: NDArray[np.float32], tmp_path: Path
) -> None:
    """Nearest to the bit, linear within float32's rounding; and of quantized numbers to the bit, which are few and small."""
    scale = float(np.abs(values).max()) / 127
    found = on_engine(backend, graph(mode, factor, "floats", scale), values, tmp_path)
    wanted = up_sampled(values, mode, factor)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= (0 if mode == "nearest" else 1e-6), "maximum difference"
    levels = np.rint(values / np.float32(scale))
    found = on_engine(backend, graph(mode, factor, "behind", scale), values, tmp_path)
    assert np.abs(found / np.float32(scale) - up_sampled(levels, mode, factor)).max() < 1e-4, "in steps"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("mode", "factor"), [("linear", 2), ("linear", 4), ("nearest", 2)])
def test_between_quantized_layers_only_ties_differ(
    backend: str, mode: str, factor: int, values: NDArray[np.float32], tmp_path: Path
) -> None:
    """Linear up-sampling of integers by powers of two often gives exact halves, which go up or down by a last bit."""
    scale = float(np.abs(values).max()) / 127
    found = on_engine(backend, graph(mode, factor, "between", scale), values, tmp_path) / np.float32(scale)
    exact = up_sampled(np.rint(values / np.float32(scale)), mode, factor)
    other = np.abs(found - np.rint(exact)) > 0.5
    tie = np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 1e-9
    assert not (other & ~tie).any() and np.abs(found - exact).max() < 0.501
    assert not other.any() or (mode == "linear" and other.mean() < 0.1)
