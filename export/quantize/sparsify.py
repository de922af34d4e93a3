"""2:4 structured sparsity: of every four weights in a row along the input channels, the two largest stay.

That is what NVIDIA's sparse tensor cores (compute capability 8.0 and later) read, and what TensorRT looks for when
`SPARSE_WEIGHTS` is set: along C for every output channel and kernel position of a Conv, along K for a matrix product.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calib.errors import InputError
from calib.precision.policy import WEIGHT_OPERATORS

GROUP, KEPT = 4, 2

Array = NDArray[Any]


@dataclass(frozen=True)
class SparseLayer:
    """A layer that was asked for: `zeros` is the share of its weights, 0–1, that are 0 now; `reason` why it was left dense."""

    name: str
    weight_shape: tuple[int, ...]
    zeros: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"weight_shape": list(self.weight_shape)}


def mask_24(weight: Array, axis: int) -> NDArray[np.bool_]:
    """True for the two largest magnitudes of each four consecutive weights along `axis`; of equal ones the first stay."""
    length = weight.shape[axis]
    if length % GROUP:
        raise ValueError(f"axis {axis} of {weight.shape} is not a multiple of {GROUP}")
    last = np.abs(np.moveaxis(weight, axis, -1))
    groups = last.reshape(-1, GROUP)
    order = np.argsort(-groups, axis=1, kind="stable")
    mask = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(mask, order[:, :KEPT], True, axis=1)
    return np.moveaxis(mask.reshape(last.shape), -1, axis)


def is_24(weight: Array, axis: int) -> bool:
    """Whether each four consecutive weights along `axis` hold at most two that are not 0."""
    if weight.shape[axis] % GROUP:
        return False
    groups = np.moveaxis(weight, axis, -1).reshape(-1, GROUP)
    return bool((np.count_nonzero(groups, axis=1) <= KEPT).all())


def sparsify_24(proto: onnx.ModelProto, names: Collection[str]) -> tuple[onnx.ModelProto, list[SparseLayer]]:
    """A copy of the floating-point graph with the weights of the named Conv, Gemm and MatMul nodes 2:4, in graph order.

    Layers whose input channels are no multiple of 4 stay dense and say so; InputError where that leaves none. A weight
    that other nodes share is copied. ValueError for a name that is not of a layer with a constant weight.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    weights = {initializer.name: initializer for initializer in result.graph.initializer}
    chosen = [node for node in result.graph.node if node.name in names]
    unknown = set(names) - {node.name for node in chosen if weight_place(node, weights) is not None}
    if unknown:
        raise ValueError(f"not layers with a constant weight: {', '.join(sorted(unknown))}")
    layers = [_sparsify(result.graph, node, weights) for node in chosen]
    if all(layer.reason for layer in layers):
        raise InputError(
            "2:4 sparsity found no layer it can prune", got=f"{len(layers)} layers chosen",
            allowed=f"a Conv, Gemm or MatMul whose input channels are a multiple of {GROUP}",
            next_step="leave the sparse precisions out of quantize.precisions",
        )  # fmt: skip
    used = {name for node in result.graph.node for name in node.input}
    kept = [initializer for initializer in result.graph.initializer if initializer.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    onnx.checker.check_model(result, full_check=True)
    return result, layers


def weight_place(node: onnx.NodeProto, constants: Collection[str]) -> tuple[int, int] | None:
    """Which of a node's inputs is its weight and the axis of that which it sums over; None for a node without one."""
    if node.op_type not in WEIGHT_OPERATORS:
        return None
    index = next((index for index in (1, 0) if node.input[index] in constants), None)
    if index is None or (index == 0 and node.op_type != "MatMul"):
        return None
    if node.op_type == "Conv":
        return index, 1
    transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
    return index, -1 if index == 0 or transposed else -2


def _sparsify(graph: onnx.GraphProto, node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> SparseLayer:
    place = weight_place(node, weights)
    assert place is not None  # the caller refuses others
    index, axis = place
    values = numpy_helper.to_array(weights[node.input[index]])
    if values.ndim < 2 or values.shape[axis] % GROUP:
        channels = values.shape[axis] if values.ndim > 1 else 1
        reason = f"{channels} input channels are not a multiple of {GROUP}"
        return SparseLayer(node.name, values.shape, float(np.mean(values == 0)), reason)
    pruned = np.where(mask_24(values, axis), values, np.zeros((), dtype=values.dtype))
    name = f"{node.input[index]}_sparse_{node.name}"
    graph.initializer.append(numpy_helper.from_array(pruned, name))
    node.input[index] = name
    return SparseLayer(node.name, values.shape, float(np.mean(pruned == 0)), "")


def read_sparse(proto: onnx.ModelProto) -> dict[str, bool]:
    """For each Conv, Gemm and MatMul with a constant weight, stored as it is or as integers to dequantize: is it 2:4?"""
    weights = {initializer.name: initializer for initializer in proto.graph.initializer}
    stored = {name: name for name in weights}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            stored[node.output[0]] = node.input[0]
    found = {}
    for node in proto.graph.node:
        place = weight_place(node, stored)
        if place is not None:
            values = numpy_helper.to_array(weights[stored[node.input[place[0]]]])
            found[node.name] = values.ndim > 1 and is_24(values, place[1])
    return found
