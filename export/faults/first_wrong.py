"""Find the first node whose result an engine computes wrong.

How is what matters: giving a tensor out beside the logits changes what an engine fuses. OpenVINO 2026.4.1, asked for every
tensor of mobilenetv4_conv_small, has zeros from the first ReLU on; asked for one beside the logits, it has zeros for tensors
before the first wrong one, which are right as soon as nothing behind them is computed. So each tensor is looked at in a graph
that ends with it. There what is before it is fused as in the whole graph, and what comes after cannot hide or spoil it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.faults.rounding import allowed_db, snr_db
from export.faults.without_qdq import drop_unused, quantized_nodes, without_qdq
from export.graph.layers import tensor_types
from export.graph.roles import QDQ

Compute = Callable[[onnx.ModelProto], NDArray[np.floating]]  # the only output of a graph, on the same images each time


@dataclass(frozen=True)
class Measured:
    """A tensor of an engine against the reference's: its signal-to-noise ratio and the least that is allowed, in dB."""

    tensor: str
    snr_db: float
    allowed_db: float

    @property
    def wrong(self) -> bool:
        """Whether it differs by more than rounding."""
        return self.snr_db < self.allowed_db


class Comparison:
    """One graph on an engine and on the reference, tensor by tensor."""

    def __init__(self, proto: onnx.ModelProto, engine: Compute, reference: Compute):
        self._proto, self._engine, self._reference = proto, engine, reference
        self._in_float = without_qdq(proto, quantized_nodes(proto))
        self._types = tensor_types(proto)

    def measure(self, tensor: str) -> Measured:
        """Compute the graph up to `tensor` three times: on the engine, on the reference, and there without Q/DQ."""
        part = self.up_to(self._proto, tensor)
        right = self._reference(part)
        in_float = self._reference(self.up_to(self._in_float, tensor))
        return Measured(tensor, snr_db(self._engine(part), right), allowed_db(right, in_float))

    def up_to(self, proto: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
        """A copy of `proto` whose only output is `tensor`, with nothing that it does not need."""
        part = onnx.ModelProto()
        part.CopyFrom(proto)
        if tensor not in {value.name for value in proto.graph.output}:
            del part.graph.output[:]
            part.graph.output.append(helper.make_tensor_value_info(tensor, self._types[tensor], None))
            known = [info for info in part.graph.value_info if info.name != tensor]
            del part.graph.value_info[:]  # a tensor is described once
            part.graph.value_info.extend(known)
        drop_unused(part.graph)
        return part

    def candidates(self) -> list[str]:
        """The floating-point tensors that depend on the image, in the graph's order; not those between a Q and its DQ."""
        depends, found = {self._proto.graph.input[0].name}, []
        for node in self._proto.graph.node:
            if depends & set(node.input):
                depends |= set(node.output)
                if node.op_type not in QDQ:
                    found += [name for name in node.output if self._types.get(name) in _FLOATING]
        return found


_FLOATING = (TensorProto.FLOAT, TensorProto.FLOAT16)


def first_wrong(proto: onnx.ModelProto, compared: Comparison) -> Measured | None:
    """The first wrong tensor, by bisection; None where the graph's output is right.

    It is wrong, and every tensor that it is made from is right or comes before one that is. Right tensors take what they are
    made from with them, whatever branch that is on; what is made from a wrong one need not be looked at.
    """
    found = compared.measure(proto.graph.output[0].name)
    if not found.wrong:
        return None
    made_from = _made_from(proto)
    order = compared.candidates()
    open_ = _in_order(order, made_from[found.tensor])
    while open_:
        middle = compared.measure(open_[len(open_) // 2])
        before = made_from[middle.tensor]
        if middle.wrong:
            found, open_ = middle, [name for name in open_ if name in before]
        else:
            open_ = [name for name in open_ if name not in before and name != middle.tensor]
    return found


def _in_order(order: Sequence[str], names: set[str]) -> list[str]:
    return [name for name in order if name in names]


def _made_from(proto: onnx.ModelProto) -> dict[str, set[str]]:
    """For each tensor all those that it is computed from."""
    found: dict[str, set[str]] = {}
    for node in proto.graph.node:
        names = set(node.input).union(*(found.get(name, set()) for name in node.input))
        found |= dict.fromkeys(node.output, names)
    return found
