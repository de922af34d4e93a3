"""Where a scale per channel can move through a graph: from what makes a tensor into the weights of what reads it.

A tensor's channels are labelled and the labels are followed through the graph: through nodes that only move data, and
through a product in which the tensor is on the right, as V is in softmax·V, because that is linear in every channel. A
channel may be scaled where all of its ways end in rows of constant weights. The labels are moved by ONNX's reference
implementation of the very nodes, so that nothing is assumed of how an exporter writes an attention.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

# What moves data and computes nothing.
MOVES = ("Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
_BATCH = 2  # any number of images but 1 would do: 1 hides a batch that ends up in another axis

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Constant:
    """A constant operand: the node, which of its inputs, and the axis of the operand that the channels are on."""

    node: str
    input: int
    axis: int


@dataclass(frozen=True)
class Consumer:
    """A MatMul or Gemm whose constant's rows a scale moves into: `labels[i]` is the channel that row i belongs to."""

    weight: Constant
    tensor: str
    labels: Labels


@dataclass(frozen=True)
class Fold:
    """One tensor whose channels can be scaled.

    `made_by` are the constants to divide (γ and β of a norm, or a weight's columns and its bias), `consumers` the ones to
    multiply; `free` says of each channel whether it may be: it reaches nothing but the consumers. `kind` is "affine" for a
    norm's output, "linear" for that of a layer with weights (the values of an attention).
    """

    name: str
    kind: str
    made_by: tuple[Constant, ...]
    consumers: tuple[Consumer, ...]
    free: NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledGraph:
    """A graph whose channels are followed, with its constants, its static shapes, and who takes each tensor as which input."""

    proto: onnx.ModelProto
    constants: dict[str, TensorProto]
    shapes: dict[str, tuple[int, ...]]
    users: dict[str, list[tuple[onnx.NodeProto, int]]]
    outputs: frozenset[str]


def find_folds(proto: onnx.ModelProto) -> list[Fold]:
    """Every tensor of the graph that can be scaled at no cost, in graph order. Nodes need unique names."""
    graph = read_labelled(proto)
    folds = []
    for node in proto.graph.node:
        made = _made_by(graph, node)
        if made is not None:
            tensor, kind, constants = made
            fold = _follow(graph, node.name, tensor, kind, constants)
            if fold is not None:
                folds.append(fold)
    return folds


def read_labelled(proto: onnx.ModelProto) -> LabelledGraph:
    """Read a graph to follow its channels."""
    users: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            users.setdefault(name, []).append((node, index))
    constants = {initializer.name: initializer for initializer in proto.graph.initializer}
    outputs = frozenset(value.name for value in proto.graph.output)
    return LabelledGraph(proto, constants, _static_shapes(proto), users, outputs)


def _static_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors for a batch of `_BATCH`; without those that still depend on something."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    del fixed.graph.value_info[:]  # they name the batch
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = _BATCH
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[info.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _made_by(graph: LabelledGraph, node: onnx.NodeProto) -> tuple[str, str, tuple[Constant, ...]] | None:
    """The tensor whose channels a node makes, its kind, and the constants that are linear in them; None if it does not."""
    shape = graph.shapes.get(node.output[0], ()) if node.output else ()
    if len(shape) < 2 or shape[-1] < 2:
        return None
    channels = shape[-1]
    if node.op_type == "LayerNormalization":
        given = [index for index in (1, 2) if len(node.input) > index and node.input[index]]
        if all(_is_vector(graph, node.input[index], channels) for index in given):
            return node.output[0], "affine", tuple(Constant(node.name, index, -1) for index in given)
    if node.op_type == "Mul":
        for index in (0, 1):
            if _is_vector(graph, node.input[index], channels):
                tensor, bias = _with_bias(graph, node.output[0], channels)
                return tensor, "affine", (Constant(node.name, index, -1), *bias)
    if node.op_type == "MatMul" and _rank(graph, node.input[1]) == 2:
        tensor, bias = _with_bias(graph, node.output[0], channels)
        return tensor, "linear", (Constant(node.name, 1, 1), *bias)
    if node.op_type == "Gemm" and _rank(graph, node.input[1]) == 2:
        weight = Constant(node.name, 1, 0 if _integer(node, "transB", 0) else 1)
        if len(node.input) < 3 or not node.input[2]:
            return node.output[0], "linear", (weight,)
        if _is_vector(graph, node.input[2], channels):
            return node.output[0], "linear", (weight, Constant(node.name, 2, -1))
    return None


def _rank(graph: LabelledGraph, name: str) -> int:
    """Of a constant; -1 for what is none."""
    return len(graph.constants[name].dims) if name in graph.constants else -1


def _is_vector(graph: LabelledGraph, name: str, channels: int) -> bool:
    """Whether a constant holds one number per channel, the last axis, and no more: (C,), (1, C), …"""
    if name not in graph.constants:
        return False
    dims = tuple(graph.constants[name].dims)
    return bool(dims) and dims[-1] == channels and int(np.prod(dims)) == channels


def _with_bias(graph: LabelledGraph, tensor: str, channels: int) -> tuple[str, tuple[Constant, ...]]:
    """What a following Add with a vector makes of the tensor, and the vector; the tensor itself without such."""
    users = graph.users.get(tensor, [])
    if len(users) == 1 and users[0][0].op_type == "Add" and tensor not in graph.outputs:
        node, index = users[0]
        if _is_vector(graph, node.input[1 - index], channels):
            return node.output[0], (Constant(node.name, 1 - index, -1),)
    return tensor, ()


def _follow(graph: LabelledGraph, name: str, tensor: str, kind: str, made_by: tuple[Constant, ...]) -> Fold | None:
    """Follow a tensor's channels to where they end; None where none of them may be scaled."""
    if tensor not in graph.shapes or not made_by:
        return None
    shape = graph.shapes[tensor]
    free = np.ones(shape[-1], dtype=bool)
    consumers: list[Consumer] = []
    waiting = [(tensor, np.broadcast_to(np.arange(shape[-1]), shape))]
    while waiting and free.any():
        current, labels = waiting.pop()
        if current in graph.outputs:
            free[labels] = False
        for node, index in graph.users.get(current, []):
            consumer = _consumer(graph, node, index, labels)
            moved = _crossed(graph, node, index, labels) or move_labels(graph, node, index, labels)
            if consumer is not None:
                consumers.append(consumer)
            elif moved:
                waiting.extend(moved)
            else:
                free[labels] = False
    reached = {int(label) for consumer in consumers for label in consumer.labels if free[label]}
    return Fold(name, kind, made_by, tuple(consumers), free) if reached else None


def _consumer(graph: LabelledGraph, node: onnx.NodeProto, index: int, labels: Labels) -> Consumer | None:
    """The node as a consumer, where its weight is a constant matrix and each of its rows belongs to one channel."""
    if index != 0 or node.op_type not in ("MatMul", "Gemm") or _rank(graph, node.input[1]) != 2:
        return None
    if node.op_type == "Gemm" and _integer(node, "transA", 0):
        return None
    rows = labels.reshape(-1, labels.shape[-1])
    if (rows != rows[0]).any():
        return None
    axis = _integer(node, "transB", 0) if node.op_type == "Gemm" else 0
    return Consumer(Constant(node.name, 1, axis), node.input[0], rows[0].copy())


def _crossed(graph: LabelledGraph, node: onnx.NodeProto, index: int, labels: Labels) -> list[tuple[str, Labels]]:
    """The labels after a product A·X, X the tensor: every entry is a sum over X's rows, so these need one label each."""
    shape = graph.shapes.get(node.output[0], ())
    if node.op_type != "MatMul" or index != 1 or labels.ndim < 2 or len(shape) < labels.ndim:
        return []
    row = labels[..., :1, :]
    if (labels != row).any() or len(graph.shapes.get(node.input[0], ())) < 2:
        return []
    return [(node.output[0], np.broadcast_to(row, shape))]


def move_labels(graph: LabelledGraph, node: onnx.NodeProto, index: int, labels: Labels) -> list[tuple[str, Labels]]:
    """The labels after a node that only moves data by constants, for each of its outputs; [] for other nodes."""
    others = [name for name in node.input[1:] if name]
    if node.op_type not in MOVES or index != 0 or any(name not in graph.constants for name in others):
        return []
    from onnx.reference import ReferenceEvaluator

    inputs = [helper.make_tensor_value_info(node.input[0], TensorProto.INT64, labels.shape)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in node.output]
    initializers = [graph.constants[name] for name in dict.fromkeys(others)]
    alone = helper.make_model(
        helper.make_graph([node], "alone", inputs, outputs, initializers), opset_imports=graph.proto.opset_import
    )
    results = ReferenceEvaluator(alone).run(None, {node.input[0]: np.ascontiguousarray(labels)})
    return [(name, np.asarray(result)) for name, result in zip(node.output, results, strict=True)]
