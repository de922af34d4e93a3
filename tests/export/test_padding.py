"""Zeros before a max pooling stay zeros, however the graph came about: ONNX Runtime and onnxsim would fold them to −∞."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from calib.precision.closeness import compare_logits
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.onnx_export import INPUT, OUTPUT, NormalisedModel, export_onnx
from export.padding import NEARLY_ZERO, keep_padding
from export.simplify import simplify_onnx

SPEC = Preprocess(16, 16, 1.0, "bilinear", (0.5,) * 3, (0.25,) * 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


class Below(nn.Module):
    """A max pooling of values below 0 with zeros at two borders, as HGNet's stem has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = -1 - F.relu(self.conv(images))
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2, stride=2)
        return self.head(x.flatten(1))


def test_the_exported_and_the_simplified_graph_keep_the_zeros(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Below().eval()
    export_onnx(network, SPEC, ["a", "b", "c", "d", "e"], tmp_path / "raw.onnx")
    with torch.no_grad():
        expected = NormalisedModel(network, SPEC).eval()(torch.from_numpy(IMAGES)).numpy()
    assert simplify_onnx(tmp_path / "raw.onnx", tmp_path / "fp32.onnx", IMAGES).accepted
    for name in ("raw.onnx", "fp32.onnx"):
        with onnxruntime_backend.load(tmp_path / name, 1) as runner:
            found = compare_logits(expected, runner.infer({INPUT: IMAGES})[OUTPUT])
        assert found.same and found.snr_db > 100, f"{name}: {found}"


def padded(mode: str, value: float | None, kind: type, pooling: str = "MaxPool") -> onnx.ModelProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    constants = [numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1]), "pads")]
    inputs = ["x", "pads"]
    if value is not None:
        constants.append(numpy_helper.from_array(np.array(value, kind), "value"))
        inputs.append("value")
    nodes = [
        helper.make_node("Pad", inputs, ["padded"], "pad", mode=mode),
        helper.make_node(pooling, ["padded"], ["y"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes, "padded", [helper.make_tensor_value_info("x", dtype, (1, 2, 5, 5))],
        [helper.make_tensor_value_info("y", dtype, (1, 2, 3, 3))], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("value", "kind"), [(None, np.float32), (0.0, np.float32), (0.0, np.float16)])
def test_a_window_of_nothing_but_negative_values_has_the_zero_for_its_maximum(value: float | None, kind: type) -> None:
    import onnxruntime

    x = -1 - np.random.default_rng(0).random((1, 2, 5, 5)).astype(kind)
    proto = padded("constant", value, kind)
    assert keep_padding(proto) == ["pad"]
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    assert found[0, :, 2, :] == pytest.approx(NEARLY_ZERO)
    assert (found[0, :, :2, :2] < -0.9).all()


@pytest.mark.parametrize(
    ("mode", "value", "pooling"),
    [("reflect", None, "MaxPool"), ("constant", -1e9, "MaxPool"), ("constant", 0.0, "AveragePool")],
)
def test_other_padding_is_left_as_it_is(mode: str, value: float | None, pooling: str) -> None:
    proto = padded(mode, value, np.float32, pooling)
    before = proto.SerializeToString()
    assert keep_padding(proto) == [] and proto.SerializeToString() == before


def test_the_nearly_zero_is_a_number_in_fp16() -> None:
    assert np.float16(NEARLY_ZERO) > 0 and np.float32(1) + np.float32(NEARLY_ZERO) == 1
    assert helper.np_dtype_to_tensor_dtype(np.dtype(np.float16)) == TensorProto.FLOAT16
