"""Find the token performers of an exported graph, and read their weights back out of their nodes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.onnx_export import CLASS_KEY, MODULE_KEY, node_metadata
from models.token_attention import KERNEL_EPS

Floats = NDArray[np.float64]


class Unrecognised(Exception):
    """Why a token performer's nodes are not as `models` writes them: it is quantized, or something was folded into it."""


@dataclass(frozen=True)
class Performer:
    """A soft split with LayerNorm and Linear, and the performer attention on it, up to its quotient.

    `nodes` are the names of all of them; `image` is the map that they take, `output` the quotient and `value_output` the
    values, which are the skip connection too. `inner` (out, C, k, k) and `between` (out, k²) are the weights of
    docs/soft-split.md, `bias` (out,) is b', `features` (D, m) is wᵀ, `epsilon` what is added to Σφ(q)φ(k) without 1/m.
    """

    module: str
    division: str
    nodes: tuple[str, ...]
    image: str
    output: str
    value_output: str
    inner: Floats
    between: Floats
    bias: Floats
    features: Floats
    stride: int
    padding: int
    tokens: int
    eps: float
    epsilon: float

    @property
    def width(self) -> int:
        """D, of k, q and v each."""
        return self.features.shape[0]


def find_performers(proto: onnx.ModelProto) -> list[tuple[str, str]]:
    """Module and name of the quotient of every token performer of the graph, in order."""
    maker = {name: node for node in proto.graph.node for name in node.output}
    return [
        (node_metadata(node, MODULE_KEY), node.name)
        for node in proto.graph.node
        if node.op_type == "Div"
        and node_metadata(node, CLASS_KEY).split()[-1:] == ["TokenPerformer"]
        and node.input[0] in maker
        and maker[node.input[0]].op_type == "MatMul"
    ]


def read_performer(proto: onnx.ModelProto, module: str, division: str) -> Performer:
    """The performer whose quotient is `division`. Raises Unrecognised."""
    graph = _Graph(proto)
    quotient = next(node for node in proto.graph.node if node.name == division)
    centre = graph.one(lambda node: graph.is_centre(node) and node_metadata(node, MODULE_KEY) == module, "x − mean(x)")
    image = centre.input[0]
    nodes = graph.between(image, quotient)
    inside = _Graph(proto, nodes)
    inner = inside.one(lambda node: node.op_type == "Conv" and node.input[0] == centre.output[0], "convolution of x − mean")
    pixels = inside.one(lambda node: node.op_type == "Conv" and node.input[0] == centre.input[1], "convolution of the mean")
    summed = inside.one(lambda node: node.op_type == "Conv" and node.input[0] == pixels.output[0], "1 × 1 convolution")
    parts = inside.one(lambda node: node.op_type == "Split", "split into k, q and v")
    root = inside.one(lambda node: node.op_type == "Sqrt", "square root")
    weight = graph.constant(inner.input[1])
    out = weight.shape[0]
    features = [graph.constant(node.input[1]) for node in nodes if node.op_type == "MatMul" and node.input[1] in graph.constants]  # fmt: skip  # noqa: E501
    if len(features) != 2 or not np.array_equal(*features) or len(parts.output) != 3 or out != 3 * features[0].shape[0]:
        raise Unrecognised("k, q and the random features do not fit")
    (stride, _), (padding, *_) = _integers(inner, "strides"), _integers(inner, "pads")
    tokens = graph.static_size(quotient.output[0], 1)
    _check_epsilon(inside, features[0].shape[1], tokens)
    _check_used(proto, nodes, {quotient.output[0], parts.output[2]})
    return Performer(
        module, division, tuple(node.name for node in nodes), image, quotient.output[0], parts.output[2], weight,
        graph.constant(summed.input[1]).reshape(out, -1), inside.bias(out), features[0], stride, padding, tokens,
        float(graph.constant(graph.maker[root.input[0]].input[1])), KERNEL_EPS * features[0].shape[1],
    )  # fmt: skip


def _check_epsilon(inside: "_Graph", features: int, tokens: int) -> None:
    """The graph has log(ε·m/T): that ε has to be the one that the new nodes will have."""
    expected = math.log(KERNEL_EPS * features / tokens)
    inside.one(
        lambda node: node.op_type == "Sub" and node.input[0] in inside.constants
        and np.allclose(inside.constant(node.input[0]), expected), "epsilon",
    )  # fmt: skip


def _check_used(proto: onnx.ModelProto, nodes: list[onnx.NodeProto], results: set[str]) -> None:
    """Nothing else may need what only the old nodes make."""
    names = {node.name for node in nodes}
    made = {name for node in nodes for name in node.output} - results
    taken = {name for node in proto.graph.node if node.name not in names for name in node.input}
    if made & taken:
        raise Unrecognised(f"{sorted(made & taken)[0]} is used outside")


def _integers(node: onnx.NodeProto, name: str) -> list[int]:
    found = [list(attribute.ints) for attribute in node.attribute if attribute.name == name]
    if not found or len(set(found[0])) != 1:
        raise Unrecognised(f"{node.op_type} has {name} {found[0] if found else 'of no number'}")
    return found[0]


class _Graph:
    """Nodes, all or some of a graph's, with its constants."""

    def __init__(self, proto: onnx.ModelProto, nodes: list[onnx.NodeProto] | None = None):
        self.proto = proto
        self.nodes = list(proto.graph.node) if nodes is None else nodes
        self.maker = {name: node for node in proto.graph.node for name in node.output}
        self.constants = {value.name: value for value in proto.graph.initializer}

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
        """x − mean(x), of a map."""
        made = self.maker.get(node.input[1]) if node.op_type == "Sub" else None
        return made is not None and made.op_type == "ReduceMean" and made.input[0] == node.input[0]

    def between(self, tensor: str, last: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that `last` needs to be computed from `tensor`, itself included, in the graph's order."""
        found: dict[str, onnx.NodeProto] = {}
        waiting = [last]
        while waiting:
            node = waiting.pop()
            if node.name in found:
                continue
            found[node.name] = node
            for name in node.input:
                if name and name != tensor and name not in self.constants:
                    if name not in self.maker:
                        raise Unrecognised(f"it takes {name} too")
                    waiting.append(self.maker[name])
        return [node for node in self.nodes if node.name in found]

    def bias(self, channels: int) -> Floats:
        """The vector that is added to the projected windows: zeros where there is none."""
        found = [
            self.constant(name)
            for node in self.nodes
            if node.op_type == "Add"
            for name in node.input
            if name in self.constants and list(self.constants[name].dims) == [channels]
        ]
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
