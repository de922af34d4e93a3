"""INT8 by explicit Q/DQ: decisions of a policy, ranges from real images, written into the graph."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.calibration import CalibrationSet
from calib.calibration_source import silent
from calib.images import Track
from calib.precision.policy import Decision, PolicyName, check_kept, decide
from export.forms.one_scale import scale_qkv
from export.graph.layers import read_layers, tensor_shapes
from export.quantize.dialects import PLAIN, Dialect
from export.quantize.qdq import FP16_NORMAL, INT8_MAX, Weights, insert_qdq, output_tensors
from export.quantize.ranges import Range, collect_ranges

Method = Literal["max", "entropy", "percentile", "mse"]
MIN_AMAX = INT8_MAX * FP16_NORMAL
MAX_TAPPED_BYTES = 256 * 2**20  # activations of one calibration batch


@dataclass(frozen=True)
class QuantizeOptions:
    """What is quantized and how: recipe keys `quantize.*` of the same names."""

    policy: PolicyName = "best"
    method: Method = "max"
    percentile: float = 99.99
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    weight_bits: int = 8


DEFAULTS = QuantizeOptions()


@dataclass(frozen=True)
class Quantized:
    """What was decided for each product and residual sum, and the range of each activation by tensor.

    `tensors` are the activations with Q/DQ by the name of their layer, `carried` those among them that carry what was
    quantized before them. `dialect` is the one that the graph is written in.
    """

    decisions: list[Decision]
    ranges: dict[str, Range]
    tensors: dict[str, tuple[str, ...]]
    dialect: Dialect = PLAIN
    carried: frozenset[str] = frozenset()


def quantize_int8(
    source: Path,
    target: Path,
    calibration: CalibrationSet,
    options: QuantizeOptions = DEFAULTS,
    dialect: Dialect = PLAIN,
) -> Quantized:
    """Write `source` (FP32) with Q/DQ to `target` as an engine of `dialect` reads it, the rest left in FP32.

    Weights per channel, activations per tensor, both symmetric. InputError as `apply_policy`.
    """
    [(proto, found)] = apply_policies(onnx.load(source), calibration, options, [dialect])
    onnx.save(write_quantized(proto, found, weight_bits=options.weight_bits), target)
    return found


def apply_policies(
    proto: onnx.ModelProto, calibration: CalibrationSet, options: QuantizeOptions, dialects: Sequence[Dialect],
    track: Track = silent,
) -> list[tuple[onnx.ModelProto, Quantized]]:  # fmt: skip
    """For each dialect its form of `proto` and what the policy decides there, from one pass over the images for all dialects
    whose forms have the same activations.

    InputError as `apply_policy`.
    """
    by_kind = {dialect.windows: dialect.measured_form(proto) for dialect in dialects}
    measured = [by_kind[dialect.windows] for dialect in dialects]
    forms = [dialect.of_measured(graph) for dialect, graph in zip(dialects, measured, strict=True)]
    layers = [read_layers(form) for form in forms]
    everywhere = [layer for found in layers for layer in found]
    wanted = [
        decide(own, options.policy, options.include, options.exclude, dialect.rules, everywhere)
        for dialect, own in zip(dialects, layers, strict=True)
    ]
    tensors = [activations(*of) for of in zip(forms, wanted, dialects, strict=True)]
    ranges: dict[int, dict[str, Range]] = {}
    for graph in measured:
        if id(graph) not in ranges:
            needed = [names for names, other in zip(tensors, measured, strict=True) if other is graph]
            ranges[id(graph)] = _measure(graph, needed, calibration, options, track)
    results = []
    for dialect, form, decisions, names, graph in zip(dialects, forms, wanted, tensors, measured, strict=True):
        seen = _through_pools(form, names, ranges[id(graph)], dialect)
        found = leave_out_faint(decisions, names, seen, dialect)
        check_kept(options.policy, decisions, found.decisions)
        results.append((form, found))
    return results


def apply_policy(
    proto: onnx.ModelProto, calibration: CalibrationSet, options: QuantizeOptions, track: Track = silent
) -> Quantized:
    """What the policy decides, with the ranges of its activations (`find_ranges`).

    InputError where the policy or a pattern finds nothing, and where all layers of a kind that it names are too faint.
    """
    return apply_policies(proto, calibration, options, [PLAIN], track)[0][1]


def find_ranges(
    proto: onnx.ModelProto, decisions: Sequence[Decision], calibration: CalibrationSet, options: QuantizeOptions,
    track: Track = silent, dialect: Dialect = PLAIN,
) -> Quantized:  # fmt: skip
    """Calibrate every activation that `decisions` quantize, in one pass; layers with a faint activation are left out.

    `proto` is in the form of `dialect`. `track` shows how far along the pass is.
    """
    tensors = activations(proto, decisions, dialect)
    ranges = _measure(proto, [tensors], calibration, options, track)
    return leave_out_faint(decisions, tensors, _through_pools(proto, tensors, ranges, dialect), dialect)


def _measure(
    proto: onnx.ModelProto, tensors: Sequence[Mapping[str, tuple[str, ...]]], calibration: CalibrationSet,
    options: QuantizeOptions, track: Track,
) -> dict[str, Range]:  # fmt: skip
    """The ranges of all tensors that layers name, from one pass over the images."""
    names = list(dict.fromkeys(name for layers in tensors for group in layers.values() for name in group))
    batches = calibration_batches(proto, names, calibration, track)
    return collect_ranges(proto, names, batches, options.method, options.percentile)


def _through_pools(
    proto: onnx.ModelProto, tensors: Mapping[str, tuple[str, ...]], ranges: Mapping[str, Range], dialect: Dialect
) -> dict[str, Range]:
    """A maximum of quantized numbers is one of them: where outputs are quantized, what comes out of a pooling has the range, and
    so the grid, of what goes in."""
    found = dict(ranges)
    used = {name for names in tensors.values() for name in names}
    for node in proto.graph.node if dialect.rules.outputs else ():
        if node.op_type == "MaxPool" and {node.input[0], node.output[0]} <= used:
            found[node.output[0]] = found[node.input[0]]
    return found


def leave_out_faint(
    decisions: Sequence[Decision], tensors: Mapping[str, tuple[str, ...]], ranges: Mapping[str, Range],
    dialect: Dialect = PLAIN,
) -> Quantized:  # fmt: skip
    """Without the layers that take or give an activation that is always zero, or so small that FP16 cannot hold its scale.

    Where scales are not FP16's, only a product that takes nothing but zeros is left out.
    """
    chosen = []
    for decision in decisions:
        names = tensors.get(decision.layer.name, ())
        if not dialect.fp16_scales:
            names = () if decision.layer.role == "residual" else names[: len(names) - decision.output]
        faintest = min((ranges[name].amax for name in names), default=MIN_AMAX)
        if decision.int8 and (faintest == 0 or (dialect.fp16_scales and faintest < MIN_AMAX)):
            told = "is always zero" if faintest == 0 else f"stays under {faintest:.2g}: too small for a scale in FP16"
            decision = Decision(decision.layer, f"an activation of it {told}")
        chosen.append(decision)
    used = {name for names in tensors.values() for name in names}
    kept = {name: found for name, found in ranges.items() if name in used}
    return Quantized(_whole_attentions(decisions, chosen), kept, dict(tensors), dialect)


def _whole_attentions(before: Sequence[Decision], after: Sequence[Decision]) -> list[Decision]:
    """Where one product of an attention was left out, so is the other: half of one in INT8 is what no engine fuses."""
    products = ("scores", "context")
    changed = [new.layer for old, new in zip(before, after, strict=True) if old.int8 and not new.int8]
    left = {layer.module for layer in changed if layer.role in products}
    return [
        Decision(decision.layer, "the other product of its attention is left out")
        if decision.int8 and decision.layer.role in products and decision.layer.module in left
        else decision
        for decision in after
    ]


def write_quantized(
    proto: onnx.ModelProto, found: Quantized, *, weight_bits: int = 8, weights: Weights = "stored",
    weight_amax: Mapping[str, NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """`proto`, in the form of `found`'s dialect, with INT8 Q/DQ as `found` says, checked; other options: `insert_qdq`."""
    proto, found = quantize_qkv_together(proto, found)
    amax = {name: found_range.amax for name, found_range in found.ranges.items()}
    quantized = insert_qdq(
        proto, found.decisions, amax, weight_bits=weight_bits, weights=weights, weight_amax=weight_amax,
        carried=found.carried, dialect=found.dialect, spans={name: of.span for name, of in found.ranges.items()},
    )  # fmt: skip
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def quantize_qkv_together(proto: onnx.ModelProto, found: Quantized) -> tuple[onnx.ModelProto, Quantized]:
    """One Q/DQ behind each qkv product in place of one each on Q, K and V, whose ranges `scale_qkv` makes equal; nothing changes
    where the dialect does not ask for it."""
    if not found.dialect.one_scale:
        return proto, found
    int8 = {decision.layer.name for decision in found.decisions if decision.int8}
    scaled, done = scale_qkv(proto, int8, {name: of.amax for name, of in found.ranges.items()})
    if not done:
        return proto, found
    ranges, carried = dict(found.ranges), set[str]()
    products = {of.product: of for of in done}
    for of in done:
        ranges |= {name: Range(amax, -amax, amax, 0.0) for name, amax in of.ranges.items()}
        carried |= set(of.parts)
    decisions = [
        replace(decision, output=True) if decision.layer.name in products else decision for decision in found.decisions
    ]
    return scaled, replace(found, decisions=decisions, ranges=ranges, carried=frozenset(carried))


def activations(
    proto: onnx.ModelProto, decisions: Sequence[Decision], dialect: Dialect = PLAIN
) -> dict[str, tuple[str, ...]]:
    """The tensors of each quantized layer that need a range: its inputs but the constant one, and its output if asked."""
    nodes = {node.name: node for node in proto.graph.node}
    results = output_tensors(proto, decisions, dialect)
    found: dict[str, tuple[str, ...]] = {}
    for decision in decisions:
        layer, node = decision.layer, nodes[decision.layer.name]
        names = [
            node.input[index] for index in decision.inputs if not (layer.weight_shape and index == layer.weight_input)
        ]
        if names:
            found[layer.name] = (*names, *([results[layer.name]] if layer.name in results else []))
    return found


def calibration_batches(
    proto: onnx.ModelProto, tensors: Sequence[str], calibration: CalibrationSet, track: Track = silent
) -> Iterator[NDArray[np.uint8]]:
    """The calibration images in batches whose activations fit into `MAX_TAPPED_BYTES`; `track` counts images."""
    shapes = tensor_shapes(proto)
    values = sum(int(np.prod(shapes[name][1:])) for name in tensors if name in shapes)
    size = max(1, min(64, MAX_TAPPED_BYTES // max(4 * values, 1)))
    starts = track(range(0, len(calibration), size), f"ranges of {len(tensors)} activations")
    for _, images in zip(starts, calibration.batches(size), strict=True):
        yield images
