"""Q/DQ as PT2E writes them: `quantized_decomposed.quantize_per_tensor` and its inverse, scales as numbers."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers the operators)

from calib.errors import InputError
from export.program.node import Node
from export.program.values import Value, Weight


def quantize(node: Node) -> Value:
    """QuantizeLinear: of an activation per tensor; of a constant, which a graph for GPUs holds in floating point, at once."""
    x = node.value(0)
    if isinstance(x, Weight):
        return _integers(node, x)
    scale, zero, dtype = _grid(node)
    bounds = torch.iinfo(dtype)
    return torch.ops.quantized_decomposed.quantize_per_tensor(
        node.tensor(0), scale, zero, bounds.min, bounds.max, dtype
    )


def _integers(node: Node, x: Weight) -> Weight:
    scale, zero, axis = node.host(1), node.host(2), int(node.attribute("axis", 1))
    along = [-1 if place == axis % x.value.ndim else 1 for place in range(x.value.ndim)] if scale.size > 1 else []
    bounds = np.iinfo(zero.dtype)
    levels = np.rint(x.value.astype(np.float32) / scale.astype(np.float32).reshape(along))
    levels = np.clip(levels + zero.reshape(along), bounds.min, bounds.max)
    return Weight(f"{x.name}_quantized", levels.astype(zero.dtype))


def dequantize(node: Node) -> Value:
    """DequantizeLinear: of an activation per tensor, of a constant per channel; what is no INT8 weight becomes floating point."""
    x = node.value(0)
    if isinstance(x, Weight):
        return _constant(node, x)
    scale, zero, dtype = _grid(node)
    bounds = torch.iinfo(dtype)
    kind = torch.float16 if node.host(1).dtype == np.float16 else torch.float32
    found: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(
        node.tensor(0), scale, zero, bounds.min, bounds.max, dtype, out_dtype=kind
    )
    return found


def _constant(node: Node, x: Weight) -> Weight:
    scales, rank = node.host(1).reshape(-1), x.value.ndim
    zeros = node.host(2).reshape(-1).astype(np.int64) if node.has(2) else np.zeros(1, np.int64)
    axis = int(node.attribute("axis", 1)) % max(rank, 1)
    if x.value.dtype == np.int8 and rank > 1 and len(scales) in (1, x.shape[axis]):
        channels = (x.shape[axis],)
        scale, zero = np.broadcast_to(scales, channels), np.broadcast_to(zeros, channels)
        return replace(x, scale=scale, zero=zero, axis=axis)
    along = [-1 if place == axis else 1 for place in range(rank)] if len(scales) > 1 else []
    floats = (x.value.astype(scales.dtype) - zeros.reshape(along).astype(scales.dtype)) * scales.reshape(along)
    return Weight(f"{x.name}_dequantized", floats)


def _grid(node: Node) -> tuple[float, int, torch.dtype]:
    """Scale, zero point and type of an activation's integers."""
    scale, zero = node.host(1), node.host(2) if node.has(2) else np.zeros((), np.uint8)
    dtype = {"int8": torch.int8, "uint8": torch.uint8}.get(zero.dtype.name)
    if scale.size != 1 or dtype is None:
        raise InputError(
            f"PyTorch's graph cannot have {node.proto.op_type} {node.proto.name} as it is",
            got=f"{scale.size} scales, {zero.dtype.name}", allowed="one scale, int8 or uint8",
            next_step="leave this backend out of build",
        )  # fmt: skip
    return float(scale.item()), int(zero.item()), dtype
