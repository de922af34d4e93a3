"""Take out of INT8 what an engine computes wrong, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from export.faults.first_wrong import Comparison, Compute, Measured, first_wrong
from export.faults.pattern import Pattern, Places
from export.faults.without_qdq import without_qdq

_ROUNDS = 3  # an engine with more patterns than these that it computes wrong is not one to recover


@dataclass(frozen=True)
class WrongNode:
    """The first node that an engine computes wrong, and what it is; `measured` is its result."""

    node: str
    operator: str
    role: str
    module: str
    measured: Measured


@dataclass(frozen=True)
class Recovery:
    """What was wrong first, and how it is avoided: without `patterns`, whose `left_out` nodes compute in floating point.

    `proto` is the graph without them; None where the engine computes no such graph right, and then nothing is left out.
    """

    wrong: WrongNode
    patterns: tuple[Pattern, ...] = ()
    left_out: tuple[str, ...] = ()
    proto: onnx.ModelProto | None = None


def recover(proto: onnx.ModelProto, engine: Compute, reference: Compute) -> Recovery | None:
    """None where the engine computes `proto` as the reference does, but for rounding.

    Else the first wrong node is found, and the layers of its pattern taken out of INT8, those on one side of it first. Where
    that is not enough, what is wrong then is looked for in turn. Errors of the engine are its own: RuntimeError.
    """
    told: WrongNode | None = None
    patterns: list[Pattern] = []
    left_out: list[str] = []
    for _ in range(_ROUNDS):
        found = first_wrong(proto, Comparison(proto, engine, reference))
        if found is None:
            break
        places = Places(proto)
        wrong = _tell(places, found)
        told = told or wrong
        taken = _take_out(proto, places, wrong, engine, reference)
        if taken is None:
            return Recovery(told)
        pattern, names, proto = taken
        patterns.append(pattern)
        left_out += names
    else:
        if Comparison(proto, engine, reference).measure(proto.graph.output[0].name).wrong:
            assert told is not None
            return Recovery(told)
    return None if told is None else Recovery(told, tuple(patterns), tuple(left_out), proto)


def _take_out(
    proto: onnx.ModelProto, places: Places, wrong: WrongNode, engine: Compute, reference: Compute
) -> tuple[Pattern, list[str], onnx.ModelProto] | None:
    """The narrowest pattern of a wrong node without which its result is right, its layers and the graph without them."""
    for pattern, names in _tries(places, wrong.node):
        changed = without_qdq(proto, names)
        if not Comparison(changed, engine, reference).measure(wrong.measured.tensor).wrong:
            return pattern, names, changed
    return None


def _tries(places: Places, node: str) -> Iterator[tuple[Pattern, list[str]]]:
    for pattern in places.patterns(node):
        yield pattern, places.matching(pattern)


def _tell(places: Places, found: Measured) -> WrongNode:
    layer = places.layer(places.node_of(found.tensor))
    return WrongNode(layer.name, layer.operator, layer.role, layer.module, found)
