"""Find what a node is for: the two products of an attention, and the sums that close a residual branch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from calib.precision.policy import Role

_BEFORE_SOFTMAX = ("Mul", "Div", "Add", "Sub", "Where", "Cast")  # scale and mask, between Q·Kᵀ and the softmax
QDQ = ("QuantizeLinear", "DequantizeLinear")
_AFTER_SOFTMAX = ("Cast", "Identity", "Dropout", *QDQ)
_AFTER_BRANCH = ("Add", "Mul", "Cast", "Identity", "Dropout", "Reshape", "Transpose", "BatchNormalization")
_MAX_STEPS = 6

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """The role of one node, with the geometry of its attention, or the weight layers that its sum adds and which input went
    around them."""

    role: Role
    skip: int = 0
    head_dim: int = 0
    tokens: int = 0
    branches: tuple[str, ...] = ()


def find_roles(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, Found]:
    """Roles by node name. `shapes` are those of tensors with 0 where a size is free."""
    graph = _Graph(proto)
    found: dict[str, Found] = {}
    for node in proto.graph.node:
        if node.op_type == "Softmax":
            found |= _attention(graph, node, shapes)
        elif node.op_type == "Add":
            branches = [_weight_layer(graph, name) for name in node.input]
            skip = _skip_input(graph, node, branches, shapes)
            if skip is not None:
                found[node.name] = Found("residual", skip=skip, branches=tuple(name for name in branches if name))
    return found


def token_makers(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> set[str]:
    """The names of the convolutions whose map is only reshaped into tokens, (B, C, H, W) → (B, C, H·W)."""
    graph = _Graph(proto)
    return {
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv"
        and (users := graph.users.get(node.output[0], []))
        and all(user.op_type in ("Reshape", "Flatten") and len(shapes.get(user.output[0], ())) == 3 for user in users)
    }


class _Graph:
    """Who makes and who uses a tensor."""

    def __init__(self, proto: onnx.ModelProto):
        self.constants = {initializer.name for initializer in proto.graph.initializer}
        self.maker = {name: node for node in proto.graph.node for name in node.output}
        self.place = {name: index for index, node in enumerate(proto.graph.node) for name in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)


def attention_products(proto: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """The products before and after every softmax, where both are products of two tensors of the network."""
    graph = _Graph(proto)
    pairs = [_products(graph, node) for node in proto.graph.node if node.op_type == "Softmax"]
    return [pair for pair in pairs if pair is not None]


def _products(graph: _Graph, softmax: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    scores = _back(graph, softmax.input[0])
    context = _forward(graph, softmax.output[0])
    return None if scores is None or context is None else (scores, context)


def _attention(graph: _Graph, softmax: onnx.NodeProto, shapes: Mapping[str, Shape]) -> dict[str, Found]:
    """The roles of both products of a softmax."""
    pair = _products(graph, softmax)
    if pair is None:
        return {}
    scores, context = pair
    query, key = (shapes.get(name, ()) for name in scores.input)
    head_dim = query[-1] if query else 0
    tokens = max(query[-2] if len(query) > 1 else 0, key[-1] if key else 0)
    return {
        scores.name: Found("scores", head_dim=head_dim, tokens=tokens),
        context.name: Found("context", head_dim=head_dim, tokens=tokens),
    }


def _is_product(graph: _Graph, node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type == "MatMul" and not graph.constants & set(node.input)


def _back(graph: _Graph, name: str) -> onnx.NodeProto | None:
    """The product that `name` comes from through scale and mask."""
    for _ in range(_MAX_STEPS):
        node = graph.maker.get(name)
        if node is None or _is_product(graph, node):
            return node
        if node.op_type not in _BEFORE_SOFTMAX:
            return None
        name = next((n for n in node.input if _is_product(graph, graph.maker.get(n))), node.input[0])
    return None


def _forward(graph: _Graph, name: str) -> onnx.NodeProto | None:
    """The product that takes `name` as its first operand."""
    for _ in range(_MAX_STEPS):
        users = graph.users.get(name, [])
        if len(users) != 1:
            return None
        if _is_product(graph, users[0]):
            return users[0] if users[0].input[0] == name else None
        if users[0].op_type not in _AFTER_SOFTMAX:
            return None
        name = users[0].output[0]
    return None


def _skip_input(graph: _Graph, node: onnx.NodeProto, layers: Sequence[str], shapes: Mapping[str, Shape]) -> int | None:
    """Which input of a sum went around the branch; None where the sum closes none.

    One operand must come from a weight layer (`layers` has its name, "" for none), through its bias, scale or a transpose; the
    other is what is used elsewhere too, or, where both come from weight layers (a projected shortcut), what was made first.
    """
    if graph.constants & set(node.input) or len(node.input) != 2:
        return None
    first, second = (shapes.get(name) for name in node.input)
    if first is None or first != second or len(first) < 3:
        return None
    branches = [index for index, layer in enumerate(layers) if layer]
    if not branches:
        return None
    if len(branches) == 1:
        return 1 - branches[0]
    shared = [index for index, name in enumerate(node.input) if len(graph.users[name]) > 1]
    if len(shared) == 1:
        return shared[0]
    return min((0, 1), key=lambda index: graph.place[node.input[index]])


def _weight_layer(graph: _Graph, name: str) -> str:
    """The weight layer that a tensor comes from, with no other use of it on the way; "" for none."""
    for _ in range(_MAX_STEPS):
        node = graph.maker.get(name)
        if node is None or len(graph.users.get(name, [])) != 1:
            return ""
        constants = [index for index, part in enumerate(node.input) if part in graph.constants]
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            return str(node.name) if constants else ""
        if node.op_type not in _AFTER_BRANCH or (len(node.input) > 1 and not constants):
            return ""
        name = next(part for part in node.input if part not in graph.constants)
    return ""
