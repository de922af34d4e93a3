"""Give Q, K and V of an attention one range, exactly, so that their product can be quantized whole.

With a scale each, an engine writes the qkv product in floating point and quantizes its three parts. The columns of its weight
that make Q are multiplied by a, those of K by b, those of V by c, so that all three have the largest range of them; the
attention's own scale is divided by a·b, and the weight of the projection behind it by c. Weights are quantized per channel, so
nothing is lost, and the smaller two gain steps.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.forms.folds import MOVES, LabelledGraph, Labels, move_labels, read_labelled
from export.graph.results import read_vectors, result_of
from export.graph.roles import attention_products

_Scalars = tuple[tuple[onnx.NodeProto, int], ...]  # by node, and which input the constant is
# A tensor, its columns of the product, the scalars on the way, and the product of these.
_Walk = tuple[str, Labels, _Scalars, float]


@dataclass(frozen=True)
class Together:
    """An attention whose Q, K and V the node `product` makes; they are the tensors `parts` where they are multiplied.

    `ranges` are the largest magnitudes after the change of the product's result, the attention's, and what the projection takes.
    """

    product: str
    parts: tuple[str, ...]
    ranges: dict[str, float]


@dataclass(frozen=True)
class _Part:
    """Q, K or V where it is multiplied: the node and its input, its columns of the product, and the scalars on the way."""

    node: str
    index: int
    tensor: str
    columns: NDArray[np.int64]
    scalars: _Scalars
    factor: float


@dataclass(frozen=True)
class _Projection:
    """The weight layer that takes an attention's result, and the tensors on the way to it, its input the last."""

    node: onnx.NodeProto
    tensors: tuple[str, ...]


def scale_qkv(
    proto: onnx.ModelProto, int8: Collection[str], amax: Mapping[str, float]
) -> tuple[onnx.ModelProto, list[Together]]:
    """A copy of `proto` in which Q, K and V of every attention among the layers `int8` have one range, and what was done.

    `amax` are the ranges of activations, by tensor. An attention whose parts do not come from one INT8 product through moves and
    scalars alone, or whose result does not go straight into a projection, stays as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = read_labelled(copy)
    pairs = {context.name: scores.name for scores, context in attention_products(copy)}
    layers = set(int8)
    products = [node for node in copy.graph.node if node.op_type == "MatMul" and node.name in layers]
    done = []
    for product in products:
        parts = _follow_parts(graph, product, pairs)
        if parts is not None and {part.node for part in parts} <= layers:
            projection = _find_projection(graph, parts[2].node)
            if projection is not None:
                done.append(_scale(graph, product, parts, projection, amax))
    return copy, done


def _result(graph: LabelledGraph, product: onnx.NodeProto) -> str:
    users = {name: [node for node, _ in taken] for name, taken in graph.users.items()}
    return result_of(product, users, read_vectors(graph.proto))


def _follow_parts(
    graph: LabelledGraph, product: onnx.NodeProto, pairs: Mapping[str, str]
) -> tuple[_Part, _Part, _Part] | None:
    """Q, K and V of one attention, in this order, where the columns of `product` are these three and nothing else."""
    tensor = _result(graph, product)
    shape = graph.shapes.get(tensor, ())
    if product.input[1] not in graph.constants or len(shape) != 3 or shape[-1] % 3:
        return None
    found: list[_Part] = []
    start: _Walk = (tensor, np.broadcast_to(np.arange(shape[-1]), shape), (), 1.0)
    waiting = [start]
    names = {*pairs, *pairs.values()}
    while waiting:
        name, labels, scalars, factor = waiting.pop()
        for node, index in graph.users.get(name, []):
            scalar = _scalar(graph, node, index)
            if node.name in names:
                found.append(_Part(node.name, index, name, np.unique(labels), scalars, factor))
            elif scalar is not None:
                waiting.append((node.output[0], labels, (*scalars, (node, 1 - index)), factor * scalar))
            else:
                moved = move_labels(graph, node, index, labels)
                if not moved:
                    return None
                waiting += [(after, columns, scalars, factor) for after, columns in moved]
    return _in_order(found, pairs, shape[-1])


def _scalar(graph: LabelledGraph, node: onnx.NodeProto, index: int) -> float | None:
    """The constant by which a node multiplies its input `index`; None where it does something else."""
    if node.op_type != "Mul" or node.input[1 - index] not in graph.constants:
        return None
    values = numpy_helper.to_array(graph.constants[node.input[1 - index]])
    return float(values.reshape(-1)[0]) if values.size == 1 and float(values.reshape(-1)[0]) != 0 else None


def _in_order(found: list[_Part], pairs: Mapping[str, str], columns: int) -> tuple[_Part, _Part, _Part] | None:
    """Q, K, V: each once, of one attention, every column in one of them; and a scalar that takes their factors back."""
    context = next((part.node for part in found if part.node in pairs), "")
    places = {(pairs.get(context, ""), 0): 0, (pairs.get(context, ""), 1): 1, (context, 1): 2}
    ordered = sorted(found, key=lambda part: places.get((part.node, part.index), -1))
    if [places.get((part.node, part.index)) for part in ordered] != [0, 1, 2]:
        return None
    query, key, value = ordered
    used = np.concatenate([part.columns for part in ordered])
    if len(used) != columns or len(np.unique(used)) != columns or not (query.scalars or key.scalars) or value.scalars:
        return None
    return query, key, value


def _find_projection(graph: LabelledGraph, context: str) -> _Projection | None:
    node = next(node for node in graph.proto.graph.node if node.name == context)
    tensors = [node.output[0]]
    while True:
        users = graph.users.get(tensors[-1], [])
        if len(users) != 1 or users[0][1] != 0 or tensors[-1] in graph.outputs:
            return None
        node = users[0][0]
        if node.op_type == "MatMul":
            return _Projection(node, tuple(tensors)) if node.input[1] in graph.constants else None
        if node.op_type not in MOVES:
            return None
        tensors.append(node.output[0])


def _scale(
    graph: LabelledGraph, product: onnx.NodeProto, parts: tuple[_Part, _Part, _Part], projection: _Projection,
    amax: Mapping[str, float],
) -> Together:  # fmt: skip
    result = _result(graph, product)
    ranges = [amax[part.tensor] / abs(part.factor) for part in parts]
    highest = max(ranges)
    factors = [highest / own for own in ranges]
    scale = np.ones(graph.shapes[result][-1])
    for part, factor in zip(parts, factors, strict=True):
        scale[part.columns] = factor
    _multiply(graph, product, 1, scale)
    if result != product.output[0]:
        bias = next(node for node in graph.proto.graph.node if result in node.output)
        _multiply(graph, bias, 1 - list(bias.input).index(product.output[0]), scale)
    node, index = next(iter((*parts[0].scalars, *parts[1].scalars)))
    _multiply(graph, node, index, np.asarray(1 / (factors[0] * factors[1])))
    _multiply(graph, projection.node, 1, np.asarray(1 / factors[2]))
    after = {name: amax[name] * factors[2] for name in projection.tensors if name in amax}
    return Together(product.name, tuple(part.tensor for part in parts), {result: highest} | after)


def _multiply(graph: LabelledGraph, node: onnx.NodeProto, index: int, factors: NDArray[np.float64]) -> None:
    """Multiply a constant operand along its last axis; the node gets its own, whoever shared it."""
    old = graph.constants[node.input[index]]
    values = numpy_helper.to_array(old)
    tensor = numpy_helper.from_array(
        (values.astype(np.float64) * factors).astype(values.dtype).reshape(values.shape), f"{node.name}_scaled_{index}"
    )
    graph.proto.graph.initializer.append(tensor)
    graph.constants[tensor.name] = tensor
    node.input[index] = tensor.name
