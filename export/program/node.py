"""One node of a graph as PyTorch computes it: its attributes as Python values, its inputs by place."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from export.program.values import Host, Value, Weight, host, integers


class Constants(nn.Module):
    """The constants that a graph computes with, as buffers: they are there from its first run on."""

    def of(self, name: str, value: Host) -> Tensor:
        """The buffer that `value` is kept in."""
        safe = "".join(letter if letter.isalnum() else "_" for letter in name)
        if safe not in self._buffers:
            self.register_buffer(safe, _as_tensor(value))
        found = self._buffers[safe]
        assert found is not None and tuple(found.shape) == value.shape, name
        return found


@dataclass(frozen=True)
class Node:
    """A node, the values of its inputs, None for one that is left out, and where constants are kept.

    `computes` is the type that it takes floating-point inputs in, None for the one that they have.
    """

    proto: onnx.NodeProto
    inputs: tuple[Value | None, ...]
    constants: Constants
    computes: torch.dtype | None = None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value; strings are text."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def has(self, place: int) -> bool:
        """Whether there is such an input."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def value(self, place: int) -> Value:
        """An input that has to be there."""
        found = self.inputs[place]
        assert found is not None
        return found

    def tensor(self, place: int) -> Tensor:
        """An input as a tensor; a quantized weight is dequantized."""
        return self.as_tensor(self.value(place))

    def as_tensor(self, value: Value) -> Tensor:
        """Any value as a tensor; a quantized weight is dequantized by PT2E's operator."""
        found = self._tensor(value)
        if self.computes in (None, found.dtype) or not found.is_floating_point():
            return found
        return found.to(self.computes)

    def _tensor(self, value: Value) -> Tensor:
        if isinstance(value, Weight):
            return self._weight(value)
        if isinstance(value, Tensor):
            return value
        if value.dtype == object:
            raise ValueError("a size that depends on the batch is computed with as if it were a number of the network")
        return torch.from_numpy(np.ascontiguousarray(value))

    def optional(self, place: int) -> Tensor | None:
        """An input as a tensor, None where it is left out."""
        return self.tensor(place) if self.has(place) else None

    def host(self, place: int) -> Host:
        """An input as an array of the host."""
        return host(self.value(place))

    def axes(self, place: int) -> list[int] | None:
        """Axes by input, or by attribute as older operators have them; None where neither is there."""
        if self.has(place):
            return integers(self.value(place))
        found = self.attribute("axes")
        return None if found is None else [int(axis) for axis in found]

    def _weight(self, weight: Weight) -> Tensor:
        value = self.constants.of(weight.name, weight.value)
        if weight.scale is None or weight.zero is None:
            return value
        scale, zero = (
            self.constants.of(f"{weight.name}_{part}", of)
            for part, of in (("scale", weight.scale), ("zero", weight.zero))
        )
        bounds = torch.iinfo(value.dtype)
        found: Tensor = torch.ops.quantized_decomposed.dequantize_per_channel(
            value, scale, zero, weight.axis, bounds.min, bounds.max, value.dtype, out_dtype=scale.dtype
        )
        return found


def _as_tensor(value: Host) -> Tensor:
    if value.dtype.name == "bfloat16":  # of a package that NumPy knows and PyTorch does not
        return torch.from_numpy(value.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(value))
