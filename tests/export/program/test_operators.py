"""Each operator of `RULES` as PyTorch computes it, against ONNX Runtime on a graph of that one node."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calib.errors import InputError
from export.program.operators import RULES
from export.program.program import read_module, read_program

RANDOM = np.random.default_rng(0)
MAPS = (2, 6, 6, 4)  # uint8 images that are seen as maps of 4 channels, 6 x 6
Case = tuple[str, list[np.ndarray], dict[str, Any]]  # operator, constant inputs behind the image, attributes


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def number(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


CASES: list[Case] = [
    ("MatMul", [floats(6, 3)], {}),
    ("Conv", [floats(5, 4, 3, 3), floats(5)], {"pads": [1, 1, 1, 1], "strides": [2, 2], "kernel_shape": [3, 3]}),
    ("Conv", [floats(4, 1, 3, 3)], {"pads": [0, 1, 2, 1], "group": 4, "dilations": [1, 1]}),
    ("ConvTranspose", [floats(4, 3, 2, 2), floats(3)], {"strides": [2, 2], "kernel_shape": [2, 2]}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("AveragePool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("GlobalAveragePool", [], {}),
    ("GlobalMaxPool", [], {}),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1), number(3)], {}),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "edge"}),
    ("Resize", [np.zeros(0, np.float32), np.asarray([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    ("Resize", [np.zeros(0, np.float32), np.zeros(0, np.float32), ints(2, 4, 9, 12)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [np.zeros(0, np.float32), np.asarray([1, 1, 2, 2], np.float32)],
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Add", [floats(4, 1, 1)], {}), ("Sub", [floats(4, 1, 1)], {}), ("Mul", [floats(4, 1, 1)], {}),
    ("Div", [floats(4, 1, 1)], {}), ("Max", [floats(4, 1, 1)], {}), ("Min", [floats(4, 1, 1)], {}),
    ("Sum", [floats(4, 1, 1), floats(6)], {}), ("Pow", [number(2)], {}), ("Pow", [number(3)], {}),
    ("Abs", [], {}), ("Neg", [], {}), ("Exp", [], {}), ("Sqrt", [], {}), ("Erf", [], {}), ("Sin", [], {}),
    ("Cos", [], {}), ("Floor", [], {}), ("Tanh", [], {}), ("Sigmoid", [], {}), ("Softplus", [], {}), ("Relu", [], {}),
    ("LeakyRelu", [], {"alpha": 0.2}), ("Elu", [], {}), ("PRelu", [floats(4, 1, 1)], {}), ("Gelu", [], {}),
    ("Gelu", [], {"approximate": "tanh"}), ("HardSwish", [], {}), ("HardSigmoid", [], {}),
    ("HardSigmoid", [], {"alpha": 1 / 6}), ("Mish", [], {}), ("Softmax", [], {"axis": 1}), ("LogSoftmax", [], {"axis": -1}),
    ("Clip", [number(-0.5), number(0.25)], {}), ("Clip", [number(0)], {}),
    ("LayerNormalization", [floats(6), floats(6)], {"epsilon": 1e-3}), ("LayerNormalization", [floats(6, 6)], {"axis": 2}),
    ("GroupNormalization", [floats(4), floats(4)], {"num_groups": 2}),
    ("BatchNormalization", [floats(4), floats(4), floats(4), np.abs(floats(4))], {"epsilon": 1e-3}),
    ("InstanceNormalization", [floats(4), floats(4)], {}),
    ("ReduceMean", [ints(2, 3)], {"keepdims": 0}), ("ReduceMean", [], {}), ("ReduceSum", [ints(1)], {}),
    ("ReduceSum", [], {"noop_with_empty_axes": 1}), ("ReduceMax", [ints(1)], {}), ("ReduceMin", [ints(-1)], {"keepdims": 0}),
    ("ReduceL2", [ints(1)], {}), ("Cast", [], {"to": TensorProto.INT32}), ("Cast", [], {"to": TensorProto.FLOAT16}),
    ("Concat", [floats(2, 3, 6, 6)], {"axis": 1}), ("Einsum", [floats(4, 7)], {"equation": "nchw,cd->ndhw"}),
    ("Equal", [number(0)], {}), ("Greater", [number(0)], {}), ("Less", [number(0)], {}),
    ("Expand", [ints(3, 1, 1, 1, 6)], {}), ("Flatten", [], {"axis": 1}), ("Flatten", [], {"axis": 2}),
    ("Gather", [ints(2, 0, -1)], {"axis": 2}), ("Gather", [np.asarray(1, np.int64)], {"axis": 1}),
    ("Gather", [np.asarray([[0, 1], [2, 3]], np.int64)], {"axis": 3}), ("Identity", [], {}),
    ("Reshape", [ints(0, 4, -1)], {}), ("Slice", [ints(1), ints(5), ints(2), ints(2)], {}),
    ("Slice", [ints(-1), ints(-(2**63)), ints(3), ints(-1)], {}), ("Slice", [ints(-3, 0), ints(2**63 - 1, 2), ints(2, 1)], {}),
    ("Squeeze", [], {}), ("Tile", [ints(1, 2, 1, 3)], {}), ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", [ints(0, 3)], {}),
]  # fmt: skip


def graph_of(
    operator: str, constants: list[np.ndarray], attributes: dict[str, Any], outputs: int = 1
) -> onnx.ModelProto:
    """Images uint8 → float, centred → (N, C, H, W) → the node → its outputs."""
    stored = [numpy_helper.from_array(value, f"constant{index}") for index, value in enumerate(constants)]
    names = ["" if value.size == 0 else f"constant{index}" for index, value in enumerate(constants)]
    results = [f"result{index}" for index in range(outputs)]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["centred"]) if operator != "Sqrt" else
        helper.make_node("Add", ["scaled", "one"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["maps"], perm=[0, 3, 1, 2]),
        helper.make_node(operator, ["maps", *names], results, name="node", **attributes),
    ]  # fmt: skip
    stored += [numpy_helper.from_array(number(1 / 64), "scale"), numpy_helper.from_array(number(1), "one")]
    graph = helper.make_graph(
        nodes, "one node", [helper.make_tensor_value_info("images", TensorProto.UINT8, MAPS)],
        [helper.make_empty_tensor_value_info(name) for name in results],
        [value for value, of in zip(stored, [*constants, 1, 1], strict=True) if np.size(of)],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto)


def on_onnxruntime(proto: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"images": images})


@pytest.mark.parametrize(("operator", "constants", "attributes"), CASES, ids=[operator for operator, _, _ in CASES])
def test_an_operator_computes_what_onnxruntime_does(
    operator: str, constants: list[np.ndarray], attributes: dict[str, Any]
) -> None:
    images = RANDOM.integers(0, 256, MAPS, dtype=np.uint8)
    proto = graph_of(operator, constants, attributes)
    [expected] = on_onnxruntime(proto, images)
    with torch.no_grad():
        found = read_module(proto)(torch.from_numpy(images)).numpy()
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("constants", "attributes"), [([ints(1, 3)], {"axis": 1}), ([], {"axis": 1, "num_outputs": 2})]
)
def test_a_split_gives_its_parts(constants: list[np.ndarray], attributes: dict[str, Any]) -> None:
    images = RANDOM.integers(0, 256, MAPS, dtype=np.uint8)
    proto = graph_of("Split", constants, attributes, outputs=2)
    found = read_program(proto).module()(torch.from_numpy(images))
    for ours, expected in zip(found, on_onnxruntime(proto, images), strict=True):
        np.testing.assert_array_equal(ours.numpy(), expected)


def test_every_operator_of_the_table_is_tested_here_or_with_networks() -> None:
    with_others = {"Gemm", "QuantizeLinear", "DequantizeLinear", "Where", "Log", "Reciprocal", "Split"}
    assert {operator for operator, _, _ in CASES} | with_others == set(RULES)


def test_an_operator_that_is_not_known_is_named() -> None:
    with pytest.raises(InputError, match=r"(?s)Asinh.*operators|operators Asinh"):
        read_module(graph_of("Asinh", [], {}))


def test_a_window_that_cannot_be_said_is_refused() -> None:
    resize = graph_of("Resize", [np.zeros(0, np.float32), np.asarray([1, 1, 2, 2], np.float32)], {"mode": "nearest"})
    with pytest.raises(InputError, match=r"Resize node.*as it is"):
        read_module(resize)
