"""The first wrong node: with engines that are wrong by design, and where OpenVINO is wrong of itself."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calib.precision.policy import Decision
from export.faults.computing import on_engine, on_reference
from export.faults.first_wrong import Comparison, Compute, first_wrong
from export.faults.pattern import Places
from export.faults.recover import recover
from export.graph.layers import read_layers
from export.quantize.qdq import insert_qdq

SIDE, CHANNELS = 8, 16
IMAGES = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
REFERENCE = on_reference(IMAGES, 1)
Constants = Mapping[str, NDArray[np.generic]]


def make_graph(nodes: Sequence[onnx.NodeProto], constants: Constants, quantized: Sequence[str]) -> onnx.ModelProto:
    """`nodes` take `x`, (B, CHANNELS, SIDE, SIDE) after a stem in floating point, and make `y` like it; those of the names
    `quantized` get Q/DQ. A small network: logits are the means of `y`."""
    weight = np.random.default_rng(0).normal(0, 0.3, (CHANNELS, 3, 3, 3)).astype(np.float32)
    stem = [
        helper.make_node("Cast", ["images"], ["levels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "grey"], ["shifted"], "shift"),
        helper.make_node("Mul", ["shifted", "step"], ["pixels"], "scale"),
        helper.make_node("Conv", ["pixels", "stem_weight"], ["stem"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem"], ["x"], "stem_relu"),
    ]
    head = [
        helper.make_node("GlobalAveragePool", ["y"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["logits"], "flatten"),
    ]
    values = {"grey": np.full((1, 1, 1, 1), 127.5, np.float32), "step": np.full((1, 1, 1, 1), 1 / 64, np.float32),
              "stem_weight": weight} | dict(constants)  # fmt: skip
    graph = helper.make_graph(
        [*stem, *nodes, *head], "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CHANNELS])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    decisions = [Decision(layer, "", (0, 1)) for layer in read_layers(proto) if layer.name in quantized]
    ranges = {node.input[0]: _largest(proto, node.input[0]) for node in nodes if node.name in quantized}
    return insert_qdq(proto, decisions, ranges)


def _largest(proto: onnx.ModelProto, tensor: str) -> float:
    return float(np.abs(REFERENCE(Comparison(proto, REFERENCE, REFERENCE).up_to(proto, tensor))).max())


def conv(source: str, target: str, bias: bool = False) -> tuple[onnx.NodeProto, dict[str, NDArray[np.float32]]]:
    """A 1 × 1 convolution called after its output."""
    generator = np.random.default_rng(sum(map(ord, target)))
    constants = {f"{target}_weight": generator.normal(0, 0.25, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32)}
    if bias:
        constants[f"{target}_bias"] = generator.normal(0, 0.3, CHANNELS).astype(np.float32)
    return helper.make_node("Conv", [source, *constants], [target], target), constants


def residual(*, bias: bool) -> onnx.ModelProto:
    """The smallest network that OpenVINO 2026.4.1 computes wrong: an INT8 convolution without a bias, `entry`, whose result is
    the input of a branch and goes around it, too. `branch` stays in floating point; `after` is in INT8 and right."""
    entry, branch, after = conv("x", "entry", bias), conv("entry", "branch"), conv("sum", "after", bias=True)
    nodes = [entry[0], branch[0], helper.make_node("Add", ["entry", "branch"], ["sum"], "sum"), after[0],
             helper.make_node("Relu", ["after"], ["y"], "relu")]  # fmt: skip
    return make_graph(nodes, entry[1] | branch[1] | after[1], ["entry", "after"])


def test_openvino_is_wrong_at_the_sum_and_right_without_int8_around_it() -> None:
    pytest.importorskip("openvino")
    proto, engine = residual(bias=False), on_engine("openvino", IMAGES, 1)
    compared = Comparison(proto, engine, REFERENCE)
    found = first_wrong(proto, compared)
    assert found is not None and found.tensor == "sum" and found.snr_db < 10 < found.allowed_db
    assert not any(compared.measure(tensor).wrong for tensor in ("x", "entry", "branch"))
    recovery = recover(proto, engine, REFERENCE)
    assert recovery is not None and recovery.proto is not None
    wrong = recovery.wrong
    assert (wrong.node, wrong.operator, wrong.role, wrong.measured) == ("sum", "Add", "residual", found)
    assert recovery.left_out == ("entry",)  # `after` stays in INT8
    assert [str(pattern) for pattern in recovery.patterns] == [
        "residual sum with Conv in INT8 as what goes around the branch"
    ]
    assert first_wrong(recovery.proto, Comparison(recovery.proto, engine, REFERENCE)) is None


def test_openvino_is_right_where_the_convolution_has_a_bias() -> None:
    pytest.importorskip("openvino")
    assert recover(residual(bias=True), on_engine("openvino", IMAGES, 1), REFERENCE) is None


def test_onnx_runtime_computes_both() -> None:
    for bias in (False, True):
        assert recover(residual(bias=bias), on_engine("onnxruntime", IMAGES, 1), REFERENCE) is None


def branches() -> onnx.ModelProto:
    """Two branches of INT8 convolutions that are joined, and a residual sum: many orders of the same nodes are topological."""
    left, right = conv("x", "left"), conv("x", "right")
    deeper, last = conv("right_relu", "deeper"), conv("joined", "last")
    nodes = [
        left[0], right[0],
        helper.make_node("Relu", ["right"], ["right_relu"], "right_relu"), deeper[0],
        helper.make_node("Sigmoid", ["left"], ["gate"], "gate"),
        helper.make_node("Mul", ["gate", "deeper"], ["joined"], "joined"), last[0],
        helper.make_node("Add", ["x", "last"], ["y"], "sum"),
    ]  # fmt: skip
    return make_graph(nodes, left[1] | right[1] | deeper[1] | last[1], ["left", "right", "deeper", "last"])


def wrong_at(node: str, *, only_in_int8: bool = False) -> Compute:
    """An engine that gives twice the result of one node; `only_in_int8`: where one of its inputs is quantized."""

    def compute(proto: onnx.ModelProto) -> NDArray[np.floating]:
        broken = onnx.ModelProto()
        broken.CopyFrom(proto)
        makers = {name: maker.op_type for maker in broken.graph.node for name in maker.output}
        place = next((index for index, found in enumerate(broken.graph.node) if found.name == node), None)
        if place is not None:
            found = broken.graph.node[place]
            if not only_in_int8 or "DequantizeLinear" in [makers.get(name) for name in found.input]:
                target = found.output[0]
                found.output[0] = "half"
                broken.graph.node.insert(place + 1, helper.make_node("Add", ["half", "half"], [target], "twice"))
        return REFERENCE(broken)

    return compute


@pytest.mark.parametrize(
    "node", ["stem", "left", "right", "right_relu", "deeper", "gate", "joined", "last", "sum", "pool"]
)
def test_each_node_is_found(node: str) -> None:
    proto = branches()
    found = first_wrong(proto, Comparison(proto, wrong_at(node), REFERENCE))
    assert found is not None and Places(proto).node_of(found.tensor) == node and found.snr_db == pytest.approx(0)


def test_a_right_engine_has_no_wrong_node() -> None:
    assert first_wrong(branches(), Comparison(branches(), REFERENCE, REFERENCE)) is None


@pytest.mark.parametrize("node", ["stem", "gate", "pool"])
def test_what_is_wrong_without_int8_too_is_told_and_left(node: str) -> None:
    recovery = recover(branches(), wrong_at(node), REFERENCE)
    assert recovery is not None and recovery.wrong.node == node
    assert recovery.proto is None and recovery.left_out == () and recovery.patterns == ()


def test_a_kernel_that_is_wrong_takes_its_own_kind_out() -> None:
    """All of these convolutions have one kernel, so all of them are in its pattern."""
    recovery = recover(branches(), wrong_at("deeper", only_in_int8=True), REFERENCE)
    assert recovery is not None and recovery.proto is not None and recovery.wrong.node == "deeper"
    assert recovery.left_out == ("left", "right", "deeper", "last")
    assert str(recovery.patterns[0]) == "Conv in INT8"


def test_two_patterns_are_found_in_turn() -> None:
    both = residual(bias=False)

    def engine(proto: onnx.ModelProto) -> NDArray[np.floating]:
        int8 = "entry_weight_quantized" in {constant.name for constant in proto.graph.initializer}
        return wrong_at("sum" if int8 else "relu")(proto) if _in_int8(proto) else REFERENCE(proto)

    recovery = recover(both, engine, REFERENCE)
    assert recovery is not None and recovery.proto is not None
    assert recovery.wrong.node == "sum" and recovery.left_out == ("entry", "after")
    assert [str(pattern) for pattern in recovery.patterns] == [
        "residual sum with Conv in INT8 as what goes around the branch", "Relu with Conv in INT8 as its input",
    ]  # fmt: skip


def _in_int8(proto: onnx.ModelProto) -> bool:
    return any(node.op_type == "DequantizeLinear" for node in proto.graph.node)
