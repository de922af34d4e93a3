"""Find, for each quantized node of a graph, the call in the PyTorch network that computes it, and prove it by numbers.

Nodes and calls come in the same order; they are aligned by kind and weight shape. A pair is taken only where the graph's
weight is the network's (but for one factor per channel, where a batch norm was folded in) and the tensors that get Q/DQ
are as large, on the same images, in the graph and in the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calib.precision.policy import WEIGHT_OPERATORS, Decision, Layer
from export.graph.calls import Call, Level
from export.quantize.qdq import weight_axis
from export.quantize.ranges import Range, collect_ranges

TOLERANCE = 1e-3  # relative; float32 differs by some 1e-6 between PyTorch and ONNX Runtime
Floats = NDArray[np.float32]
Key = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Point:
    """An activation with Q/DQ: the graph's tensor, and how many times larger its values are than the network's."""

    tensor: str
    ratio: float


@dataclass(frozen=True)
class Site:
    """A quantized node and its call. `inputs` are the activations by operand; `weight` the place of the constant operand
    (None: not quantized) and `gain` the factor from the network's weight to the graph's, by output channel.

    `spread` is there where the graph has the division by the deviation of each colour in the weight of its first
    convolution: 255 · deviation (colours,), by which its input is larger and its weight smaller than the network's.
    """

    layer: Layer
    call: int
    inputs: dict[int, Point]
    output: Point | None
    weight: int | None
    gain: Floats
    spread: Floats | None = None


@dataclass(frozen=True)
class Placement:
    """Where fake quantization goes, and what a policy quantizes that only the graph can: its layers, and why."""

    sites: tuple[Site, ...]
    missed: tuple[tuple[Layer, str], ...]
    calls: int  # of one run of the network


class _Unplaced(Exception):
    """Why a node has no place in the network."""


def place(
    proto: onnx.ModelProto, decisions: Sequence[Decision], calls: dict[int, Call], count: int,
    images: NDArray[np.uint8], spread: Floats,
) -> Placement:  # fmt: skip
    """Sites of the quantized `decisions`; `calls` were recorded on the same `images` (n, H, W, 3). `spread` as in `Site`."""
    pairs = _align(proto, calls)
    wanted = [decision for decision in decisions if decision.int8]
    nodes = {node.name: node for node in proto.graph.node}
    weights = {value.name: value for value in proto.graph.initializer}
    tensors = {tensor for decision in wanted for tensor in _activations(proto, nodes[decision.layer.name], decision)}
    levels = collect_ranges(proto, sorted(tensors), [images])
    sites: list[Site] = []
    missed: list[tuple[Layer, str]] = []
    for decision in wanted:
        layer = decision.layer
        try:
            if layer.name not in pairs:
                raise _Unplaced("no call of the network computes this node alone")
            call = pairs[layer.name]
            site = _site(nodes[layer.name], decision, call, calls[call], levels, weights, spread)
            sites.append(site)
            if _quantizes_output(proto, nodes[layer.name], decision):
                sites[-1] = replace(site, output=_output(nodes[layer.name], layer, calls[call], levels))
        except _Unplaced as reason:
            missed.append((layer, str(reason)))
    return Placement(tuple(sites), tuple(missed), count)


def _align(proto: onnx.ModelProto, calls: dict[int, Call]) -> dict[str, int]:
    """Calls by the name of the node; what has no counterpart is left out."""
    shapes = {value.name: tuple(value.dims) for value in proto.graph.initializer}
    nodes = [node for node in proto.graph.node if node.op_type in WEIGHT_OPERATORS or _is_sum(node, shapes)]
    numbers = list(calls)
    ours = [_node_key(node, shapes) for node in nodes]
    theirs = [_call_key(calls[number]) for number in numbers]
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return {nodes[a + i].name: numbers[b + i] for a, b, size in blocks for i in range(size)}


def _is_sum(node: onnx.NodeProto, constants: dict[str, tuple[int, ...]]) -> bool:
    return node.op_type == "Add" and not constants.keys() & set(node.input)


def _node_key(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> Key:
    kind = {"Conv": "conv", "Add": "sum"}.get(node.op_type, "product")
    return _key(kind, next((shapes[name] for name in node.input[:2] if name in shapes), ()))


def _call_key(call: Call) -> Key:
    kind = call.kind if call.kind in ("conv", "sum") else "product"
    return _key(kind, next((tuple(value.shape) for value in call.constants.values()), ()))


def _key(kind: str, shape: tuple[int, ...]) -> Key:
    return kind, shape if kind == "conv" else tuple(sorted(shape))  # the graph may hold a product's weight transposed


def _activations(proto: onnx.ModelProto, node: onnx.NodeProto, decision: Decision) -> list[str]:
    layer = decision.layer
    inputs = [node.input[i] for i in decision.inputs if not (layer.weight_shape and i == layer.weight_input)]
    return inputs + ([node.output[0]] if _quantizes_output(proto, node, decision) else [])


def _quantizes_output(proto: onnx.ModelProto, node: onnx.NodeProto, decision: Decision) -> bool:
    """What the graph gives out is never quantized."""
    return decision.output and node.output[0] not in {value.name for value in proto.graph.output}


def _site(
    node: onnx.NodeProto, decision: Decision, number: int, call: Call, levels: dict[str, Range],
    weights: dict[str, onnx.TensorProto], spread: Floats,
) -> Site:  # fmt: skip
    """The site with its inputs."""
    layer = decision.layer
    constant = layer.weight_input if layer.weight_shape else None
    if set(call.constants) != ({constant} if constant is not None else set()):
        raise _Unplaced("its weight is not a weight in the network")
    weight = constant if constant in decision.inputs else None
    stored = weights[node.input[constant]] if constant is not None else None
    if stored is not None and _takes_colours(node, call, levels, spread):
        gain = read_gain(node, layer, stored, channels_first(call, 1, spread))
        return Site(layer, number, {0: Point(node.input[0], 1.0)}, None, weight, gain, spread)
    gain = np.ones(0, np.float32)
    if stored is not None and constant is not None:
        gain = read_gain(node, layer, stored, channels_first(call, constant))
    factors = (1.0, call.scale, call.scale**0.5)
    inputs = {
        index: Point(node.input[index], _ratio(node.input[index], levels, call.operands[index], factors))
        for index in decision.inputs if index != constant
    }  # fmt: skip
    return Site(layer, number, inputs, None, weight, gain)


def _takes_colours(node: onnx.NodeProto, call: Call, levels: dict[str, Range], spread: Floats) -> bool:
    """Whether a convolution's input is the image before it was divided by its deviations, in the graph alone."""
    if call.kind != "conv" or call.constants[1].shape[1] != len(spread) or node.input[0] not in levels:
        return False
    highest, ours = _highest(levels[node.input[0]]), call.operands[0].highest
    near = (1 - TOLERANCE) * spread.min() * ours <= highest <= (1 + TOLERANCE) * spread.max() * ours
    return near and abs(highest - ours) > TOLERANCE * highest


def _output(node: onnx.NodeProto, layer: Layer, call: Call, levels: dict[str, Range]) -> Point:
    """Not placed where a batch norm was folded in: the network has what the node gives only after that."""
    try:
        return Point(node.output[0], _ratio(node.output[0], levels, call.results[takes_bias(layer)], (1.0,)))
    except _Unplaced as reason:
        raise _Unplaced(f"its output alone: {reason}") from reason


def takes_bias(layer: Layer) -> bool:
    """Whether the node's result has the bias in it; a MatMul's is added by a node of its own."""
    return layer.operator != "MatMul"


def _ratio(tensor: str, levels: dict[str, Range], level: Level, factors: Sequence[float]) -> float:
    """Which of `factors` the graph's tensor is of the network's."""
    highest = _highest(levels[tensor])
    for factor in factors:
        if abs(highest - factor * level.highest) <= TOLERANCE * highest:
            return factor
    raise _Unplaced(f"the network has no tensor like {tensor}: {highest:.4g} at most, {level.highest:.4g} there")


def _highest(found: Range) -> float:
    return max(found.high, -found.low)


def channels_first(call: Call, place: int, spread: Floats | None = None) -> Floats:
    """A call's constant operand as (output channels, the rest); divided by `spread` along the colours where given."""
    weight = call.constants[place].float().cpu().numpy()
    if spread is not None:
        weight = weight / spread.reshape(1, -1, 1, 1)
    if channel_axis(call, place) != 0:
        weight = np.moveaxis(weight, channel_axis(call, place), 0)
    return weight.reshape(len(weight), -1)


def channel_axis(call: Call, place: int) -> int:
    """The axis of the output channels: the last where a constant (K, N) is on the right of a matmul."""
    dims = call.constants[place].ndim
    return 0 if call.kind != "matmul" else dims - 1 if place == 1 else dims - 2


def read_gain(node: onnx.NodeProto, layer: Layer, stored: onnx.TensorProto, ours: Floats) -> Floats:
    """The factor from our weight (output channels, rest) to the graph's for each output channel, 1 where ours is 0."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    theirs = np.moveaxis(numpy_helper.to_array(stored), weight_axis(layer, transposed), 0)
    theirs = theirs.reshape(len(theirs), -1)
    if theirs.shape != ours.shape:
        raise _Unplaced(f"its weight is {theirs.shape} in the graph and {ours.shape} in the network")
    power = (ours * ours).sum(1)
    gain = np.where(power > 0, (theirs * ours).sum(1) / np.where(power > 0, power, 1), 1).astype(np.float32)
    difference = np.abs(theirs - gain[:, None] * ours).max(initial=0)
    if difference > TOLERANCE * np.abs(theirs).max(initial=0):
        raise _Unplaced("its weight has other values in the network")
    return gain
