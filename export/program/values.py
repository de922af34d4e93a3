"""What flows between the nodes of a graph that PyTorch computes: tensors, constant weights with their Q/DQ, and shapes.

Shapes, axes and indices are NumPy arrays of whole numbers, which the nodes between them compute at once: in a graph with a
free batch one of these numbers is PyTorch's symbol for it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Host = NDArray[Any]


@dataclass(frozen=True)
class Weight:
    """A constant that a graph computes with, on the host until a buffer of its program holds it.

    Behind a DequantizeLinear `scale` and `zero` (channels,) belong to its integers along `axis`. `name` tells it from others.
    """

    name: str
    value: Host
    scale: Host | None = None
    zero: Host | None = None
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def transposed(self) -> "Weight":
        """A matrix the other way round, as a linear layer has it."""
        return replace(self, name=f"{self.name}_t", value=np.ascontiguousarray(self.value.T), axis=1 - self.axis)


Value = Tensor | Weight | Host


def host(value: Value) -> Host:
    """A constant or a shape as an array of the host. ValueError for what depends on the image."""
    if isinstance(value, Weight):
        return value.value
    if isinstance(value, Tensor):
        raise ValueError("a shape or an index depends on the image")
    return value


def sizes(value: Value) -> list[Any]:
    """A one-dimensional shape as a list, of integers and symbols."""
    return list(host(value).reshape(-1))


def integers(value: Value) -> list[int]:
    """The same where no symbol can be: axes, pads."""
    return [int(number) for number in sizes(value)]


def shape_of(value: Value) -> Host:
    """The shape as a value of the host."""
    if isinstance(value, np.ndarray):
        return np.asarray(value.shape, dtype=np.int64)
    return np.asarray([*value.shape], dtype=object)
