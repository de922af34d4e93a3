"""How PyTorch computes each operator of a graph: one table. `export/program/program.py` walks the graph."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor

from export.program import windows
from export.program.node import Node
from export.program.products import gemm, product
from export.program.quantization import dequantize, quantize
from export.program.shapes import slices
from export.program.values import Value, Weight, host, integers, sizes

Rule = Callable[[Node], Value | Sequence[Value]]


def _cast(node: Node) -> Tensor:
    return node.tensor(0).to(_dtype(node.attribute("to")))


def _dtype(number: int) -> torch.dtype:
    if number == 16:  # NumPy has no bfloat16
        return torch.bfloat16
    return torch.from_numpy(np.zeros(0, helper.tensor_dtype_to_np_dtype(number))).dtype


def _reshape(node: Node) -> Tensor:
    x, wanted = node.tensor(0), sizes(node.value(1))
    keeps = not node.attribute("allowzero", 0)
    return x.reshape([x.shape[i] if keeps and _is(size, 0) else _whole(size) for i, size in enumerate(wanted)])


def _expand(node: Node) -> Tensor:
    x, wanted = node.tensor(0), [_whole(size) for size in sizes(node.value(1))]
    shape = [1] * (len(wanted) - x.ndim) + list(x.shape)
    wanted = [1] * (len(shape) - len(wanted)) + wanted
    return x.expand([own if _is(size, 1) else size for own, size in zip(shape, wanted, strict=True)])


def _whole(size: Any) -> Any:
    return int(size) if isinstance(size, np.integer) else size


def _is(size: Any, number: int) -> bool:
    """Whether it is that number, and no symbol."""
    return isinstance(size, int | np.integer) and int(size) == number


def _slice(node: Node) -> Tensor:
    x = node.tensor(0)
    for axis, part in slices(node, x.ndim).items():
        if (part.step or 1) < 0:
            x, part = x.flip(axis), _mirrored(part, int(x.shape[axis]))
        x = x[(slice(None),) * axis + (part,)]
    return x


def _mirrored(part: slice, size: int) -> slice:
    """The part of a reversed axis that a slice with a negative step takes."""
    start, stop, step = part.indices(size)
    return slice(size - 1 - start, size - 1 - stop, -step)


def _split(node: Node) -> Sequence[Tensor]:
    x, axis = node.tensor(0), int(node.attribute("axis", 0))
    if node.has(1):
        return torch.split(x, integers(node.value(1)), dim=axis)
    parts = node.attribute("num_outputs", len(node.proto.output))
    return torch.split(x, -(-x.shape[axis] // parts), dim=axis)


def _gather(node: Node) -> Tensor:
    x, axis = node.tensor(0), int(node.attribute("axis", 0))
    if isinstance(node.value(1), Tensor):
        index = node.tensor(1)
        return torch.index_select(x, axis, index.reshape(-1)).reshape(
            *x.shape[:axis], *index.shape, *x.shape[axis + 1 :]
        )
    found = host(node.value(1)).astype(np.int64)
    found = np.where(found < 0, found + int(x.shape[axis]), found)
    if found.ndim == 0:
        return x.select(axis, int(found))
    chosen = node.constants.of(f"{node.proto.name}_index", found.reshape(-1))
    axis %= x.ndim
    return torch.index_select(x, axis, chosen).reshape(*x.shape[:axis], *found.shape, *x.shape[axis + 1 :])


def _reduce(function: Callable[..., Tensor]) -> Rule:
    def rule(node: Node) -> Tensor:
        x, axes = node.tensor(0), node.axes(1)
        if not axes:
            if node.attribute("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.ndim))
        return function(x, dim=axes, keepdim=bool(node.attribute("keepdims", 1)))

    return rule


def _clip(node: Node) -> Tensor:
    low, high = (float(host(node.value(place)).item()) if node.has(place) else None for place in (1, 2))
    return torch.clamp(node.tensor(0), low, high)


def _layer_norm(node: Node) -> Tensor:
    x, axis = node.tensor(0), int(node.attribute("axis", -1))
    shape = [int(size) for size in x.shape[axis % x.ndim :]]
    return F.layer_norm(x, shape, node.tensor(1), node.optional(2), float(node.attribute("epsilon", 1e-5)))


def _group_norm(node: Node) -> Tensor:
    groups = int(node.attribute("num_groups"))
    return F.group_norm(node.tensor(0), groups, node.tensor(1), node.tensor(2), float(node.attribute("epsilon", 1e-5)))


def _batch_norm(node: Node) -> Tensor:
    """A factor and a summand for each channel, which every engine has: what of them is constant is computed here."""
    scale, shift, mean, variance = (node.host(place).astype(np.float64) for place in range(1, 5))
    factor = scale / np.sqrt(variance + float(node.attribute("epsilon", 1e-5)))
    x, shape = node.tensor(0), [-1] + [1] * (node.tensor(0).ndim - 2)
    name, kind = node.proto.name or node.proto.output[0], node.host(1).dtype
    parts = {"factor": factor, "summand": shift - mean * factor}
    weights = [Weight(f"{name}_{part}", of.reshape(shape).astype(kind)) for part, of in parts.items()]
    return x * node.as_tensor(weights[0]) + node.as_tensor(weights[1])


def _instance_norm(node: Node) -> Tensor:
    return F.instance_norm(
        node.tensor(0), weight=node.tensor(1), bias=node.tensor(2), eps=float(node.attribute("epsilon", 1e-5))
    )


def _transpose(node: Node) -> Tensor:
    x = node.tensor(0)
    return x.permute([int(axis) for axis in node.attribute("perm") or reversed(range(x.ndim))])


def _unsqueeze(node: Node) -> Tensor:
    x, axes = node.tensor(0), node.axes(1) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(node: Node) -> Tensor:
    axes = node.axes(1)
    return node.tensor(0).squeeze() if axes is None else node.tensor(0).squeeze(axes)


def _flatten(node: Node) -> Tensor:
    x, axis = node.tensor(0), int(node.attribute("axis", 1))
    return x.flatten(axis) if axis == 1 else x.reshape(int(np.prod(x.shape[:axis])), -1)


def _sum(node: Node) -> Tensor:
    found = node.tensor(0)
    for place in range(1, len(node.inputs)):
        found = found + node.tensor(place)
    return found


def _power(node: Node) -> Tensor:
    exponent = node.value(1)
    if isinstance(exponent, Weight) and exponent.value.size == 1:
        number = float(exponent.value.item())
        return node.tensor(0) ** (int(number) if number == int(number) else number)
    return node.tensor(0) ** node.tensor(1)


def _hard_sigmoid(node: Node) -> Tensor:
    alpha, beta = float(node.attribute("alpha", 0.2)), float(node.attribute("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(node.tensor(0))
    return torch.clamp(alpha * node.tensor(0) + beta, 0, 1)


def _of(function: Callable[..., Tensor], inputs: int = 1) -> Rule:
    """A function that takes its inputs as they are."""
    return lambda node: function(*(node.tensor(place) for place in range(inputs)))


RULES: dict[str, Rule] = {
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "MatMul": product,
    "Gemm": gemm,
    "Conv": windows.convolution,
    "ConvTranspose": windows.transposed_convolution,
    "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool,
    "GlobalAveragePool": lambda node: node.tensor(0).mean(tuple(range(2, node.tensor(0).ndim)), keepdim=True),
    "GlobalMaxPool": lambda node: node.tensor(0).amax(tuple(range(2, node.tensor(0).ndim)), keepdim=True),
    "Pad": windows.pad,
    "Resize": windows.resize,
    "Add": _of(torch.add, 2),
    "Sub": _of(torch.sub, 2),
    "Mul": _of(torch.mul, 2),
    "Div": _of(torch.div, 2),
    "Sum": _sum,
    "Pow": _power,
    "Max": _of(torch.maximum, 2),
    "Min": _of(torch.minimum, 2),
    "Abs": _of(torch.abs),
    "Neg": _of(torch.neg),
    "Exp": _of(torch.exp),
    "Log": _of(torch.log),
    "Sqrt": _of(torch.sqrt),
    "Reciprocal": _of(torch.reciprocal),
    "Erf": _of(torch.erf),
    "Sin": _of(torch.sin),
    "Cos": _of(torch.cos),
    "Floor": _of(torch.floor),
    "Tanh": _of(torch.tanh),
    "Sigmoid": _of(torch.sigmoid),
    "Softplus": _of(F.softplus),
    "Relu": _of(F.relu),
    "LeakyRelu": lambda node: F.leaky_relu(node.tensor(0), float(node.attribute("alpha", 0.01))),
    "Elu": lambda node: F.elu(node.tensor(0), float(node.attribute("alpha", 1.0))),
    "PRelu": lambda node: torch.where(node.tensor(0) >= 0, node.tensor(0), node.tensor(0) * node.tensor(1)),
    "Gelu": lambda node: F.gelu(node.tensor(0), approximate=node.attribute("approximate", "none")),
    "HardSwish": _of(F.hardswish),
    "HardSigmoid": _hard_sigmoid,
    "Mish": _of(F.mish),
    "Softmax": lambda node: torch.softmax(node.tensor(0), int(node.attribute("axis", -1))),
    "LogSoftmax": lambda node: torch.log_softmax(node.tensor(0), int(node.attribute("axis", -1))),
    "Clip": _clip,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceL2": _reduce(torch.linalg.vector_norm),
    "Cast": _cast,
    "Concat": lambda node: torch.cat([node.tensor(i) for i in range(len(node.inputs))], int(node.attribute("axis"))),
    "Einsum": lambda node: torch.einsum(node.attribute("equation"), *(node.tensor(i) for i in range(len(node.inputs)))),
    "Equal": _of(torch.eq, 2),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Greater": _of(torch.gt, 2),
    "Identity": lambda node: node.value(0),
    "Less": _of(torch.lt, 2),
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda node: node.tensor(0).repeat([int(size) for size in sizes(node.value(1))]),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _of(torch.where, 3),
}
