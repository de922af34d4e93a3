"""What is known to be never negative, from operators alone."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph.results import read_users, read_vectors, result_of
from export.graph.signs import never_negative


def graph(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", nodes[-1].output[0])]
    stored = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(list(nodes), "g", values[:1], values[1:], stored))


def node(operator: str, *names: str) -> onnx.NodeProto:
    return helper.make_node(operator, list(names[:-1]), [names[-1]], f"{operator} {names[-1]}")


@pytest.mark.parametrize("operator", ["Relu", "Softmax", "Sigmoid", "Exp", "Abs"])
def test_operators_that_give_nothing_negative_and_what_keeps_it(operator: str) -> None:
    proto = graph(
        node(operator, "x", "a"), node("MaxPool", "a", "b"), node("Transpose", "b", "c"), node("Add", "c", "a", "d")
    )
    assert never_negative(proto) == {"a", "b", "c", "d"}


@pytest.mark.parametrize(("low", "known"), [(0.0, True), (1.0, True), (-1.0, False)])
def test_a_clip_is_as_its_lower_limit(low: float, known: bool) -> None:
    proto = graph(node("Clip", "x", "low", "high", "y"), low=np.float32(low), high=np.float32(6))
    assert ("y" in never_negative(proto)) is known


@pytest.mark.parametrize("operator", ["Gelu", "HardSwish", "Identity", "Conv", "MatMul", "LayerNormalization"])
def test_what_may_be_negative(operator: str) -> None:
    assert never_negative(graph(node("Relu", "x", "a"), node(operator, "x", "y"))) == {"a"}


def test_a_sum_with_something_negative_may_be_negative() -> None:
    proto = graph(
        node("Relu", "x", "a"), node("Add", "a", "bias", "b"), node("Mul", "a", "gain", "c"), bias=[-1.0], gain=[2.0]
    )
    assert never_negative(proto) == {"a", "c"}


def test_a_result_is_behind_bias_and_relu() -> None:
    proto = graph(
        node("MatMul", "x", "w", "product"), node("Add", "product", "bias", "sum"), node("Relu", "sum", "y"),
        w=np.ones((2, 2)), bias=np.ones(2),
    )  # fmt: skip
    assert result_of(proto.graph.node[0], read_users(proto), read_vectors(proto)) == "y"


def test_a_result_that_something_else_takes_before_the_relu_is_there() -> None:
    proto = graph(
        node("Conv", "x", "w", "product"), node("Relu", "product", "a"), node("Add", "product", "a", "y"), w=np.ones(1)
    )
    assert result_of(proto.graph.node[0], read_users(proto), read_vectors(proto)) == "product"
