"""Soft splits as windows: the windows are those of unfold, and the graph computes what it did before."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

from calib.precision.policy import decide
from export.forms.token_nodes import SoftSplit
from export.forms.windows import FEW_CHANNELS, write_unfold, write_windows
from export.graph.layers import read_layers
from export.graph.node_writer import NodeWriter
from export.onnx_export import INPUT


def unfolded(pixels: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """The windows of a map (1, H, W, C) as the form writes them."""
    _, height, width, channels = pixels.shape
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    inner = np.zeros((1, channels, kernel, kernel))
    split = SoftSplit((), "", "", inner, np.zeros((1, kernel**2)), np.zeros(1), stride, padding, rows * columns, 1e-5)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "windows")]
    values[0].type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(1, pixels.shape).tensor_type.shape)
    first = helper.make_node("Identity", ["x"], ["windows"], "node")
    proto = helper.make_model(
        helper.make_graph([first], "unfold", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    writer = NodeWriter(proto, "node", "windows")
    writer.node("Identity", write_unfold(writer, "x", split, channels, height, width), output="windows")
    writer.replace(("node",))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": pixels})[0])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        (7, 4, 2, (224, 224)),
        (3, 2, 1, (56, 56)),
        (3, 1, 1, (8, 9)),
        (7, 4, 2, (33, 30)),
        (2, 2, 0, (7, 6)),
        (5, 3, 2, (17, 11)),
    ],
)
@pytest.mark.parametrize("channels", [3, FEW_CHANNELS])
def test_windows_are_those_of_unfold(
    kernel: int, stride: int, padding: int, size: tuple[int, int], channels: int
) -> None:
    pixels = np.random.default_rng(0).normal(size=(1, *size, channels)).astype(np.float32)
    windows = F.unfold(torch.from_numpy(pixels).permute(0, 3, 1, 2), kernel, padding=padding, stride=stride)
    expected = windows.reshape(channels, kernel * kernel, -1).permute(2, 1, 0).reshape(windows.shape[-1], -1).numpy()
    assert np.array_equal(unfolded(pixels, kernel, stride, padding)[0], expected)


@pytest.fixture(scope="module", params=["small_onnx", "transformer_onnx"])
def before(request: pytest.FixtureRequest) -> onnx.ModelProto:
    folder: Path = request.getfixturevalue(request.param)
    return onnx.load(folder / "fp32.onnx")


def logits(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT: images})[0])


@pytest.mark.slow
def test_the_graph_computes_the_same(before: onnx.ModelProto) -> None:
    """Flat, black and white images are among them: their windows have no deviation to divide by."""
    random = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    random[0], random[1], random[2] = 0, 255, 128
    found = logits(write_windows(before), random)
    difference = np.abs(found - logits(before, random)).max()
    assert np.isfinite(found).all() and difference < 5e-5, difference


@pytest.mark.slow
def test_the_products_of_the_windows_are_layers_of_the_network(before: onnx.ModelProto) -> None:
    after = write_windows(before)
    names = {node.name for node in after.graph.node}
    outside = [node.name for node in before.graph.node if "model.blocks." in str(node.metadata_props)]
    assert outside and names.issuperset(outside), "other nodes keep their names"
    quantized = {
        decision.layer.module.removeprefix("tokens_to_token.")
        for decision in decide(read_layers(after)) if decision.int8 and "tokens_to_token" in decision.layer.module
    }  # fmt: skip
    assert {name.rsplit(".", 1)[-1] for name in quantized if name.endswith("qv") or name.endswith("qkv")} <= {
        "kqv",
        "qkv",
    }
    assert sum(name.endswith(("kqv", "qkv")) for name in quantized) == 2, quantized
    assert not any(layer.operator == "Conv" and layer.kernel for layer in read_layers(after)), (
        "none is a convolution any more"
    )


def test_a_graph_without_soft_splits_is_left_alone() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    proto = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "g", values[:1], values[1:])
    )
    assert write_windows(proto) is proto
