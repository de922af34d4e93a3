"""Take layers out of INT8 in a graph that has Q/DQ already, whoever wrote it: no decisions and no ranges are needed."""

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Floats = NDArray[np.float32]


def quantized_nodes(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes that take a dequantized tensor as one of their first two inputs, in order."""
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    return [
        node.name for node in proto.graph.node
        if node.op_type != "QuantizeLinear" and dequantized & set(node.input[:2])
    ]  # fmt: skip


def without_qdq(proto: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """A copy of `proto` in which the nodes called `nodes` compute in floating point.

    Each of their inputs that comes from a DequantizeLinear is what stands before the pair: an activation as it was; a weight,
    or a bias, as what its stored steps stand for (`(q - zero point) · scale`, so the weights keep their INT8 grid). Pairs that
    other layers take stay. Nodes and constants that nothing uses any more are dropped. ValueError for a name that is no node's.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    unknown = set(nodes) - {node.name for node in copy.graph.node}
    if unknown:
        raise ValueError(f"the graph has no nodes {sorted(unknown)}")
    before = _Before(copy.graph)
    for node in copy.graph.node:
        if node.name in nodes:
            node.input[:] = [before(name) for name in node.input]
    drop_unused(copy.graph)
    return copy


class _Before:
    """What stands before a pair of QuantizeLinear and DequantizeLinear."""

    def __init__(self, graph: onnx.GraphProto):
        self._graph = graph
        self._constants = {constant.name: constant for constant in graph.initializer}
        self._maker = {name: node for node in graph.node for name in node.output}

    def __call__(self, name: str) -> str:
        dequantize = self._maker.get(name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return name
        stored = dequantize.input[0]
        quantize = self._maker.get(stored)
        if quantize is not None and quantize.op_type == "QuantizeLinear" and quantize.input[0] not in self._constants:
            return self(quantize.input[0])
        folded = f"{name}_folded"
        if folded not in self._constants:
            steps = self._values(stored) if quantize is None else self._quantized(quantize)
            values = (steps - self._zero(dequantize, steps)) * self._scale(dequantize, steps)
            dtype = numpy_helper.to_array(self._constants[dequantize.input[1]]).dtype  # FP16 where the graph is
            self._keep(numpy_helper.from_array(values.astype(dtype), folded))
        return folded

    def _quantized(self, quantize: onnx.NodeProto) -> Floats:
        """The steps that a QuantizeLinear makes of a constant."""
        values = self._values(quantize.input[0])
        scale, zero = self._scale(quantize, values), self._zero(quantize, values)
        limits = np.iinfo(numpy_helper.to_array(self._constants[quantize.input[2]]).dtype)
        return np.clip(np.rint(values / scale) + zero, limits.min, limits.max)

    def _scale(self, node: onnx.NodeProto, values: Floats) -> Floats:
        return _along(node, self._values(node.input[1]), values.ndim)

    def _zero(self, node: onnx.NodeProto, values: Floats) -> Floats:
        if len(node.input) < 3:
            return np.zeros((), np.float32)
        return _along(node, self._values(node.input[2]), values.ndim)

    def _values(self, name: str) -> Floats:
        return np.asarray(numpy_helper.to_array(self._constants[name]), dtype=np.float32)

    def _keep(self, constant: onnx.TensorProto) -> None:
        self._graph.initializer.append(constant)
        self._constants[constant.name] = constant


def _along(node: onnx.NodeProto, values: Floats, dims: int) -> Floats:
    """A scale or zero point, one for each channel of the node's axis or one for all, as it is broadcast over `dims` axes."""
    if values.size == 1 or values.ndim != 1:
        return values.reshape(()) if values.size == 1 else values
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * dims
    shape[axis] = -1
    return values.reshape(shape)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that no output of the graph depends on, and what is said of their tensors."""
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    made = needed | {name for node in kept for name in node.output}
    for field, values in (
        (graph.node, kept[::-1]),
        (graph.initializer, [constant for constant in graph.initializer if constant.name in needed]),
        (graph.value_info, [info for info in graph.value_info if info.name in made]),
    ):
        del field[:]
        field.extend(values)
