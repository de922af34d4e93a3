"""What shape arithmetic of a graph becomes: NumPy on the host, where PyTorch's symbols are numbers like others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from export.program.node import Node
from export.program.values import Host, Value, shape_of, sizes


def on_host(node: Node) -> Value | None:
    """The result where every input is a value of the host and the operator is shape arithmetic, else None."""
    if node.proto.op_type == "Shape":
        return _shape(node)
    rule = _RULES.get(node.proto.op_type)
    values = [value for value in node.inputs if value is not None]
    if rule is None or not all(isinstance(value, np.ndarray) for value in values):
        return None
    return _plain(rule(node))


def _plain(value: Host) -> Host:
    """Whole numbers in int64 again where no symbol is left."""
    if value.dtype == object and all(isinstance(number, int | np.integer) for number in value.reshape(-1)):
        return value.astype(np.int64)
    return value


def _shape(node: Node) -> Host:
    start, end = node.attribute("start", 0), node.attribute("end")
    return _plain(shape_of(node.value(0))[start:end])


def _cast(node: Node) -> Host:
    if node.host(0).dtype == object:
        return node.host(0)
    return node.host(0).astype(helper.tensor_dtype_to_np_dtype(node.attribute("to")))


def _unsqueeze(node: Node) -> Host:
    found = node.host(0)
    axes = node.axes(1) or []
    rank = found.ndim + len(axes)
    return np.expand_dims(found, tuple(axis % rank for axis in axes))


def _squeeze(node: Node) -> Host:
    axes = node.axes(1)
    return np.squeeze(node.host(0), None if axes is None else tuple(axes))


def _slice(node: Node) -> Host:
    found = node.host(0)
    for axis, part in slices(node, found.ndim).items():
        found = found[(slice(None),) * axis + (part,)]
    return found


def slices(node: Node, rank: int) -> dict[int, slice]:
    """The part of each axis that Slice takes, by axis; steps may be negative on the host alone."""
    starts, ends = sizes(node.value(1)), sizes(node.value(2))
    axes = node.axes(3) or list(range(len(starts)))
    steps = sizes(node.value(4)) if node.has(4) else [1] * len(starts)
    parts: dict[int, slice] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        whole = isinstance(end, int | np.integer) and end >= 2**31 - 1
        beyond = isinstance(end, int | np.integer) and step < 0 and end < -(2**31) + 2
        parts[axis % rank] = slice(_whole(start), None if whole or beyond else _whole(end), int(step))
    return parts


def _whole(number: Any) -> Any:
    return int(number) if isinstance(number, np.integer) else number


def _filled(node: Node) -> Host:
    value = node.attribute("value")
    number = onnx.numpy_helper.to_array(value).reshape(-1)[0] if value is not None else np.float32(0)
    return np.full([int(size) for size in sizes(node.value(0))], number)


def _divide(node: Node) -> Host:
    left, right = node.host(0), node.host(1)
    return left // right if np.issubdtype(right.dtype, np.integer) or right.dtype == object else left / right


_RULES: dict[str, Callable[[Node], Host]] = {
    "Add": lambda node: node.host(0) + node.host(1),
    "Sub": lambda node: node.host(0) - node.host(1),
    "Mul": lambda node: node.host(0) * node.host(1),
    "Div": _divide,
    "Cast": _cast,
    "Concat": lambda node: np.concatenate([node.host(i) for i in range(len(node.inputs))], axis=node.attribute("axis")),
    "ConstantOfShape": _filled,
    "Equal": lambda node: np.equal(node.host(0), node.host(1)),
    "Expand": lambda node: np.broadcast_to(node.host(0), [int(size) for size in sizes(node.value(1))]),
    "Gather": lambda node: np.take(node.host(0), node.host(1).astype(np.int64), axis=node.attribute("axis", 0)),
    "Identity": lambda node: node.host(0),
    "Range": lambda node: np.arange(node.host(0).item(), node.host(1).item(), node.host(2).item()),
    "Reshape": lambda node: node.host(0).reshape([int(size) for size in sizes(node.value(1))]),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Where": lambda node: np.where(node.host(0), node.host(1), node.host(2)),
}
