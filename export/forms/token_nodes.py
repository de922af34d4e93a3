"""Find the soft splits and the performers of an exported graph, and read their weights back out of their nodes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calib.precision.policy import TOKEN_ATTENTIONS
from export.onnx_export import CLASS_KEY, MODULE_KEY, node_metadata
from models.token_attention import KERNEL_EPS

Floats = NDArray[np.float64]


class Unrecognised(Exception):
    """Why nodes are not as `models` writes them: they are quantized, or something was folded into them."""


@dataclass(frozen=True)
class SoftSplit:
    """A soft split with LayerNorm and Linear: `nodes` (names, in order) make `result` (B, T, out) of the map `image`.

    `inner` (out, C, k, k) and `between` (out, k²) are the weights of docs/soft-split.md, `bias` (out,) is b'.
    """

    nodes: tuple[str, ...]
    image: str
    result: str
    inner: Floats
    between: Floats
    bias: Floats
    stride: int
    padding: int
    tokens: int
    eps: float


@dataclass(frozen=True)
class Performer:
    """A performer attention: `nodes` (names, in order) make the quotient `output` and the values of `source` (B, T, 3D).

    `features` (D, m) is wᵀ, `epsilon` what is added to Σφ(q)φ(k) without 1/m.
    """

    nodes: tuple[str, ...]
    source: str
    output: str
    value_output: str
    features: Floats
    epsilon: float


def token_attentions(proto: onnx.ModelProto) -> list[tuple[str, str]]:
    """Module and class of every token attention that starts with a soft split, in order."""
    graph = _Graph(proto)
    centres = [node for node in proto.graph.node if graph.is_centre(node)]
    found = {node_metadata(node, MODULE_KEY): node_metadata(node, CLASS_KEY).split()[-1:] for node in centres}
    return [(module, kind[0]) for module, kind in found.items() if kind and kind[0] in TOKEN_ATTENTIONS]


def read_soft_split(proto: onnx.ModelProto, module: str) -> SoftSplit:
    """The soft split of a token attention. Raises Unrecognised."""
    graph = _Graph(proto)
    centre = graph.one(lambda node: graph.is_centre(node) and node_metadata(node, MODULE_KEY) == module, "x − mean(x)")
    parts = _next_split(proto, centre)
    result = parts.input[0]
    inside = graph.between(centre.input[0], result)
    inner = inside.one(lambda node: _convolves(node, centre.output[0]), "convolution of x − mean(x)")
    pixels = inside.one(lambda node: _convolves(node, centre.input[1]), "convolution of the mean")
    summed = inside.one(lambda node: _convolves(node, pixels.output[0]), "1 × 1 convolution")
    root = inside.one(lambda node: node.op_type == "Sqrt", "square root")
    added = inside.maker[root.input[0]]
    weight = graph.constant(inner.input[1])
    out = weight.shape[0]
    inside.check_used({result})
    return SoftSplit(
        inside.names(), centre.input[0], result, weight, graph.constant(summed.input[1]).reshape(out, -1),
        inside.bias(out), _same(inner, "strides"), _same(inner, "pads"), graph.static_size(result, 1),
        float(graph.constant(added.input[1])),
    )  # fmt: skip


def read_performer(proto: onnx.ModelProto, soft_split: SoftSplit) -> Performer:
    """The performer attention on what a soft split gives. Raises Unrecognised."""
    graph = _Graph(proto)
    parts = graph.one(lambda node: node.op_type == "Split" and node.input[0] == soft_split.result, "split into k, q, v")
    after = proto.graph.node[list(proto.graph.node).index(parts) :]
    quotient = next((node for node in after if node.op_type == "Div" and graph.is_product(node.input[0])), None)
    if quotient is None:
        raise Unrecognised("no node looks like its quotient")
    inside = graph.between(soft_split.result, quotient.output[0])
    features = [
        graph.constant(node.input[1])
        for node in inside.nodes
        if node.op_type == "MatMul" and node.input[1] in graph.constants
    ]
    width = features[0].shape[0] if features else 0
    if len(features) != 2 or not np.array_equal(features[0], features[1]) or 3 * width != len(soft_split.bias):
        raise Unrecognised("k, q and the random features do not fit")
    epsilon = KERNEL_EPS * features[0].shape[1]
    inside.one(lambda node: inside.subtracts_from(node, math.log(epsilon / soft_split.tokens)), "epsilon")
    inside.check_used({quotient.output[0], parts.output[2]})
    return Performer(inside.names(), soft_split.result, quotient.output[0], parts.output[2], features[0], epsilon)


def _convolves(node: onnx.NodeProto, tensor: str) -> bool:
    return node.op_type == "Conv" and node.input[0] == tensor


def _next_split(proto: onnx.ModelProto, node: onnx.NodeProto) -> onnx.NodeProto:
    nodes = list(proto.graph.node)
    found = (other for other in nodes[nodes.index(node) :] if other.op_type == "Split" and len(other.output) == 3)
    parts = next(found, None)
    if parts is None:
        raise Unrecognised("no node looks like the split of what it gives")
    return parts


def _same(node: onnx.NodeProto, name: str) -> int:
    """An attribute that has the same number for each side."""
    found = {number for attribute in node.attribute if attribute.name == name for number in attribute.ints}
    if len(found) != 1:
        raise Unrecognised(f"{node.op_type} has {name} {sorted(found)}")
    return int(found.pop())


class _Graph:
    """Nodes, all or some of a graph's, with its constants."""

    def __init__(self, proto: onnx.ModelProto, nodes: list[onnx.NodeProto] | None = None):
        self.proto = proto
        self.nodes = list(proto.graph.node) if nodes is None else nodes
        self.maker = {name: node for node in proto.graph.node for name in node.output}
        self.constants = {value.name: value for value in proto.graph.initializer}

    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    def one(self, fits: Callable[[onnx.NodeProto], bool], what: str) -> onnx.NodeProto:
        """The only node that fits."""
        found = [node for node in self.nodes if fits(node)]
        if len(found) != 1:
            raise Unrecognised(f"{len(found)} nodes look like its {what}")
        return found[0]

    def constant(self, name: str) -> Floats:
        """A constant's values."""
        if name not in self.constants:
            raise Unrecognised(f"{name} is no constant")
        return np.asarray(numpy_helper.to_array(self.constants[name]), dtype=np.float64)

    def is_centre(self, node: onnx.NodeProto) -> bool:
        """x − mean(x)."""
        made = self.maker.get(node.input[1]) if node.op_type == "Sub" else None
        return made is not None and made.op_type == "ReduceMean" and made.input[0] == node.input[0]

    def is_product(self, name: str) -> bool:
        """Whether a tensor is made by a MatMul."""
        return name in self.maker and self.maker[name].op_type == "MatMul"

    def subtracts_from(self, node: onnx.NodeProto, value: float) -> bool:
        """value − x."""
        return node.op_type == "Sub" and node.input[0] in self.constants and np.allclose(self.constant(node.input[0]), value)  # fmt: skip  # noqa: E501

    def between(self, first: str, last: str) -> "_Graph":
        """The nodes that make the tensor `last` of the tensor `first`."""
        found: set[str] = set()
        waiting = [last]
        while waiting:
            name = waiting.pop()
            if name not in self.maker:
                raise Unrecognised(f"it takes {name} too")
            node = self.maker[name]
            if node.name not in found:
                found.add(node.name)
                waiting += [used for used in node.input if used and used != first and used not in self.constants]
        return _Graph(self.proto, [node for node in self.nodes if node.name in found])

    def check_used(self, results: set[str]) -> None:
        """Unrecognised where other nodes need what these make, beside `results`."""
        names = set(self.names())
        made = {name for node in self.nodes for name in node.output} - results
        taken = {name for node in self.proto.graph.node if node.name not in names for name in node.input}
        if made & taken:
            raise Unrecognised(f"{sorted(made & taken)[0]} is used outside")

    def bias(self, channels: int) -> Floats:
        """The vector that is added to the projected windows: zeros where there is none."""
        names = [name for node in self.nodes if node.op_type == "Add" for name in node.input if name in self.constants]
        found = [self.constant(name) for name in names if list(self.constants[name].dims) == [channels]]
        if len(found) > 1:
            raise Unrecognised("it adds more than one bias")
        return found[0] if found else np.zeros(channels)

    def static_size(self, tensor: str, axis: int) -> int:
        """One size of a tensor, which must not be free."""
        inferred = onnx.shape_inference.infer_shapes(self.proto, data_prop=True).graph
        sizes = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.value_info, *inferred.output)}
        if tensor not in sizes or not sizes[tensor][axis].dim_value:
            raise Unrecognised(f"the size of {tensor} is free")
        return int(sizes[tensor][axis].dim_value)
