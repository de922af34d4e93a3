"""Operators that slide a window over maps, or change their size: convolution, pooling, padding, resizing."""

import torch
import torch.nn.functional as F
from torch import Tensor

from calib.errors import InputError
from export.program.node import Node
from export.program.values import integers, sizes

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def convolution(node: Node) -> Tensor:
    """Conv in any number of dimensions; padding that differs between sides stands in front."""
    weight = node.value(1)
    rank = len(weight.shape) - 2
    x, padding = _padded(node, node.tensor(0), rank, 0.0)
    return _CONVOLUTIONS[rank](
        x, node.as_tensor(weight), node.optional(2), _ints(node, "strides", rank), padding, _ints(node, "dilations", rank),
        node.attribute("group", 1),
    )  # fmt: skip


def transposed_convolution(node: Node) -> Tensor:
    """ConvTranspose of maps."""
    pads = node.attribute("pads", [0, 0, 0, 0])
    if list(pads[:2]) != list(pads[2:]) or node.attribute("output_shape"):
        raise _not_understood(node, "padding that differs between sides")
    return F.conv_transpose2d(
        node.tensor(0), node.tensor(1), node.optional(2), _ints(node, "strides", 2), list(pads[:2]),
        node.attribute("output_padding", [0, 0]), node.attribute("group", 1), _ints(node, "dilations", 2),
    )  # fmt: skip


def max_pool(node: Node) -> Tensor:
    kernel = list(node.attribute("kernel_shape"))
    x, padding = _padded(node, node.tensor(0), len(kernel), -torch.inf, half=kernel)
    ceil = bool(node.attribute("ceil_mode", 0))
    return F.max_pool2d(x, kernel, _ints(node, "strides", 2), padding, _ints(node, "dilations", 2), ceil_mode=ceil)


def average_pool(node: Node) -> Tensor:
    kernel = list(node.attribute("kernel_shape"))
    counts = bool(node.attribute("count_include_pad", 0))
    pads = _pads(node, len(kernel))
    if pads[: len(kernel)] != pads[len(kernel) :] and not counts:
        raise _not_understood(node, "padding that differs between sides and is not counted")
    x, padding = _padded(node, node.tensor(0), len(kernel), 0.0)
    return F.avg_pool2d(x, kernel, _ints(node, "strides", 2), padding, bool(node.attribute("ceil_mode", 0)), counts)


def pad(node: Node) -> Tensor:
    """Pad with a constant, by reflection or with the edge."""
    x = node.tensor(0)
    pads = integers(node.value(1)) if node.has(1) else list(node.attribute("pads"))
    axes = node.axes(3) or list(range(len(pads) // 2))
    value = float(node.host(2).item()) if node.has(2) else 0.0
    by_axis = {axis % x.ndim: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    ends = [side for axis in reversed(range(x.ndim)) for side in by_axis.get(axis, (0, 0))]
    while len(ends) > 2 and ends[-2:] == [0, 0]:
        ends = ends[:-2]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(node.attribute("mode", "constant"))
    if mode is None:
        raise _not_understood(node, f"mode {node.attribute('mode')}")
    return F.pad(x, ends, mode, value if mode == "constant" else None)


def resize(node: Node) -> Tensor:
    """Resize of maps: nearest by floor, and linear, on half pixels or with aligned corners."""
    x = node.tensor(0)
    mode, where = node.attribute("mode", "nearest"), node.attribute("coordinate_transformation_mode", "half_pixel")
    size = _new_size(node, x)
    if mode == "nearest" and where == "asymmetric" and node.attribute("nearest_mode", "") == "floor":
        return F.interpolate(x, size, mode="nearest")
    if mode == "nearest" and where == "half_pixel" and node.attribute("nearest_mode") == "round_prefer_ceil":
        return F.interpolate(x, size, mode="nearest-exact")
    if mode in ("linear", "cubic") and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        kind = {"linear": "bilinear", "cubic": "bicubic"}[mode]
        shrinks = bool(node.attribute("antialias", 0))
        return F.interpolate(x, size, mode=kind, align_corners=where == "align_corners", antialias=shrinks)
    raise _not_understood(node, f"mode {mode} with coordinates {where}, {node.attribute('nearest_mode', '')}")


def _new_size(node: Node, x: Tensor) -> list[int]:
    if node.has(3):
        return [int(size) for size in sizes(node.value(3))[-2:]]
    scales = [float(scale) for scale in sizes(node.value(2))][-2:]
    return [int(size * scale) for size, scale in zip(x.shape[-2:], scales, strict=True)]


def _ints(node: Node, name: str, rank: int) -> list[int]:
    return [int(number) for number in node.attribute(name) or [1] * rank]


def _pads(node: Node, rank: int) -> list[int]:
    """At the beginnings of all axes, then at their ends."""
    if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise _not_understood(node, f"auto_pad {node.attribute('auto_pad')}")
    return [int(number) for number in node.attribute("pads") or [0] * 2 * rank]


def _padded(
    node: Node, x: Tensor, rank: int, value: float, half: list[int] | None = None
) -> tuple[Tensor, list[int]]:  # fmt: skip
    """The map, and the padding that the operator itself can do: as much on both sides, for a pooling at most half a window."""
    pads = _pads(node, rank)
    begins, ends = pads[:rank], pads[rank:]
    too_much = half is not None and any(2 * begin > side for begin, side in zip(begins, half, strict=True))
    if begins == ends and not too_much:
        return x, begins
    sides = [side for begin, end in zip(reversed(begins), reversed(ends), strict=True) for side in (begin, end)]
    return F.pad(x, sides, value=value), [0] * rank


def _not_understood(node: Node, got: str) -> InputError:
    return InputError(
        f"PyTorch's graph cannot have {node.proto.op_type} {node.proto.name} as it is", got=got,
        allowed="what export/program/windows.py has", next_step="leave this backend out of build",
    )  # fmt: skip
