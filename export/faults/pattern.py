"""What kind of place a node is in, and which quantized layers of the graph are in such a place."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from calib.precision.policy import WEIGHT_OPERATORS, Layer
from export.faults.without_qdq import quantized_nodes, without_qdq
from export.graph.layers import read_layers

ITSELF, SKIP, BRANCH, INPUT = "itself", "what goes around the branch", "the branch", "its input"


@dataclass(frozen=True)
class Pattern:
    """Nodes of one operator and role, and the quantized layers on some `sides` of them: of the operators `feeders`, or of the
    `kind` of the node itself.

    A side of a residual sum is its branch or what goes around it; other nodes have their input, and quantized ones themselves.
    """

    operator: str
    role: str
    sides: tuple[str, ...]
    feeders: tuple[str, ...]
    kind: tuple[object, ...] = ()

    def __str__(self) -> str:
        name = (
            "residual sum"
            if self.role == "residual"
            else f"{self.operator} ({self.role})"
            if self.role
            else self.operator
        )
        if self.sides == (ITSELF,):
            return f"{name} in INT8"
        return f"{name} with {' and '.join(self.feeders)} in INT8 as {' and '.join(self.sides)}"


class Places:
    """The places of a graph's nodes, read where it has no Q/DQ, which hide what a node is for."""

    def __init__(self, proto: onnx.ModelProto):
        quantized = quantized_nodes(proto)
        in_float = without_qdq(proto, quantized)
        self._layers = {layer.name: layer for layer in read_layers(in_float)}
        # a ReLU or a Split of a dequantized tensor is no layer: the product before it is
        self._quantized = {name for name in quantized if _is_layer(self._layers[name])}
        self._nodes = {node.name: node for node in in_float.graph.node}
        self._maker = {name: node for node in in_float.graph.node for name in node.output}

    def layer(self, node: str) -> Layer:
        """What a node is to a policy."""
        return self._layers[node]

    def node_of(self, tensor: str) -> str:
        """The node that makes a tensor."""
        return str(self._maker[tensor].name)

    def patterns(self, node: str) -> list[Pattern]:
        """Those a node is in, the narrowest first: one for each side with quantized layers, then all sides at once.

        None where no quantized layer is near it.
        """
        layer, sides = self._layers[node], self._sides(node)
        found = [self._pattern(layer, {side: names}) for side, names in sides.items()]
        return found + ([self._pattern(layer, sides)] if len(sides) > 1 else [])

    def matching(self, pattern: Pattern) -> list[str]:
        """The quantized layers of every node that is in the pattern, in the graph's order."""
        names: set[str] = set()
        for node, layer in self._layers.items():
            if (layer.operator, layer.role) != (pattern.operator, pattern.role):
                continue
            sides = self._sides(node)
            for side in sides.keys() & set(pattern.sides):
                names |= {
                    name for name in sides[side]
                    if self._layers[name].operator in pattern.feeders and pattern.kind in ((), _kind(layer))
                }  # fmt: skip
        return [name for name in self._layers if name in names]

    def _pattern(self, layer: Layer, sides: Mapping[str, set[str]]) -> Pattern:
        operators = sorted({self._layers[name].operator for names in sides.values() for name in names})
        kind = _kind(layer) if ITSELF in sides else ()
        return Pattern(layer.operator, layer.role, tuple(sides), tuple(operators), kind)

    def _sides(self, node: str) -> dict[str, set[str]]:
        """The quantized layers near a node: itself, and on each side those whose results reach it without another product.

        Engines move a scale over several sums: in efficientvit_m0 OpenVINO 2026.4.1 is wrong at the eleventh after the INT8
        convolution that is the reason.
        """
        layer, found = self._layers[node], dict[str, set[str]]()
        if node in self._quantized:
            found[ITSELF] = {node}
        for index, name in enumerate(self._nodes[node].input):
            feeders = self._feeders(name)
            if feeders:
                side = INPUT if layer.role != "residual" else SKIP if index == layer.skip else BRANCH
                found[side] = found.get(side, set()) | feeders
        return found

    def _feeders(self, tensor: str) -> set[str]:
        found, seen, todo = set[str](), set[str](), [tensor]
        while todo:
            node = self._maker.get(todo.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            if node.name in self._quantized:
                found.add(node.name)
                continue
            layer = self._layers[node.name]
            if layer.role == "residual":  # all sums of a chain add to what went around the first branch
                todo.append(node.input[layer.skip])
            elif not _is_layer(layer):
                todo += node.input
        return found


def _is_layer(layer: Layer) -> bool:
    return layer.operator in WEIGHT_OPERATORS or bool(layer.role)


def _kind(layer: Layer) -> tuple[object, ...]:
    """What a kernel of a weight layer is chosen by: the size of its window, and whether it is depthwise."""
    return (layer.weight_shape[2:], layer.depthwise)
