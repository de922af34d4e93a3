"""Layers out of INT8: the graph then computes what numpy makes of the stored weights, and other layers keep their Q/DQ."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calib.precision.policy import Decision
from export.faults.without_qdq import quantized_nodes, without_qdq
from export.graph.layers import read_layers
from export.quantize.qdq import Weights, insert_qdq

CHANNELS = 16
X = np.random.default_rng(0).uniform(-1, 1, (2, 5, CHANNELS)).astype(np.float32)


def two_products(weights: Weights = "stored") -> onnx.ModelProto:
    """Two MatMuls of one input, both quantized, whose results are added."""
    generator = np.random.default_rng(1)
    constants = {f"w{i}": generator.normal(0, 1, (CHANNELS, CHANNELS)).astype(np.float32) for i in (0, 1)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"), helper.make_node("MatMul", ["x", "w1"], ["b"], "second"),
        helper.make_node("Add", ["a", "b"], ["y"], "sum"),
    ]  # fmt: skip
    sizes = ["n", 5, CHANNELS]
    graph = helper.make_graph(
        nodes, "two", [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    decisions = [Decision(layer, "", (0, 1)) for layer in read_layers(proto) if layer.operator == "MatMul"]
    return insert_qdq(proto, decisions, {"x": 1.0}, weights=weights)


def run(proto: onnx.ModelProto, x: NDArray[np.float32] = X) -> NDArray[np.float32]:
    onnx.checker.check_model(proto, full_check=True)
    return np.asarray(ReferenceEvaluator(proto).run(None, {"x": x})[0])


def constants_of(proto: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {constant.name: numpy_helper.to_array(constant) for constant in proto.graph.initializer}


def on_the_grid(proto: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    """A stored weight, dequantized by its scales, one for each output channel."""
    stored = constants_of(proto)
    return stored[f"{name}_weight_quantized"].astype(np.float32) * stored[f"{name}_weight_scale"]


def test_one_of_two_layers_leaves_and_the_other_stays() -> None:
    proto = two_products()
    left = without_qdq(proto, ["first"])
    assert quantized_nodes(proto) == ["first", "second"] and quantized_nodes(left) == ["second"]
    steps = np.clip(np.rint(X * 127), -127, 127) / np.float32(127)
    expected = X @ on_the_grid(proto, "first") + steps @ on_the_grid(proto, "second")
    difference = np.abs(run(left) - expected)
    assert difference.max() < 1e-5, f"max {difference.max():.2g}, mean {difference.mean():.2g}"
    assert not any(name.startswith("first_weight_quantized") for name in constants_of(left))


@pytest.mark.parametrize("weights", ["stored", "on grid", "as they are"])
def test_without_any_the_weights_keep_their_grid(weights: Weights) -> None:
    proto = two_products(weights)
    left = without_qdq(proto, quantized_nodes(proto))
    assert [node.op_type for node in left.graph.node] == ["MatMul", "MatMul", "Add"]
    stored = two_products()
    expected = X @ on_the_grid(stored, "first") + X @ on_the_grid(stored, "second")
    difference = np.abs(run(left) - expected)
    assert difference.max() < 1e-5, f"max {difference.max():.2g}, mean {difference.mean():.2g}"


def other_dialect() -> onnx.ModelProto:
    """A uint8 activation with a zero point, an INT8 weight without one in the node, a bias as INT32, Q/DQ on the output."""
    generator = np.random.default_rng(2)
    constants: dict[str, NDArray[np.generic]] = {
        "x_scale": np.float32(2 / 255), "x_zero": np.uint8(128),
        "w": generator.integers(-127, 128, (CHANNELS, CHANNELS), dtype=np.int8), "w_scale": np.float32(0.01),
        "b": generator.integers(-9999, 9999, CHANNELS, dtype=np.int32), "b_scale": np.float32(0.01 * 2 / 255),
        "y_scale": np.float32(0.05), "y_zero": np.uint8(100),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["wd"], "w_dq"),
        helper.make_node("DequantizeLinear", ["b", "b_scale"], ["bd"], "b_dq"),
        helper.make_node("Gemm", ["xd", "wd", "bd"], ["y0"], "product"),
        helper.make_node("QuantizeLinear", ["y0", "y_scale", "y_zero"], ["yq"], "y_q"),
        helper.make_node("DequantizeLinear", ["yq", "y_scale", "y_zero"], ["y"], "y_dq"),
    ]
    graph = helper.make_graph(
        nodes, "dialect", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CHANNELS])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_graphs_of_other_tools() -> None:
    """The bias is folded with the weight; the pair behind the product is another's to keep."""
    left = without_qdq(other_dialect(), ["product"])
    assert [node.name for node in left.graph.node] == ["product", "y_q", "y_dq"]
    stored, x = constants_of(other_dialect()), X[0]
    product = x @ (stored["w"] * np.float32(0.01)) + stored["b"] * stored["b_scale"]
    steps = np.clip(np.rint(product / np.float32(0.05)) + 100, 0, 255)
    difference = np.abs(run(left, x) - (steps - 100) * np.float32(0.05))
    assert difference.max() < 0.051 and difference.mean() < 1e-3, (
        f"a step where a half is rounded, max {difference.max():.2g}"
    )


def test_an_fp16_graph_stays_one() -> None:
    half = other_dialect()
    for constant in half.graph.initializer:
        if constant.data_type == TensorProto.FLOAT:
            constant.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float16), constant.name)
            )
    for value in (half.graph.input[0], half.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    left = without_qdq(half, ["product"])
    assert [values.dtype for name, values in constants_of(left).items() if name.endswith("folded")] == [np.float16] * 2
    onnx.checker.check_model(left, full_check=True)


def test_the_graph_that_was_given_stays() -> None:
    proto = two_products()
    before = proto.SerializeToString()
    without_qdq(proto, ["first", "second"])
    assert proto.SerializeToString() == before


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no nodes \['third'\]"):
        without_qdq(two_products(), ["third"])
