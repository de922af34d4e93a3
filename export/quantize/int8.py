"""INT8 by explicit Q/DQ: decisions of a policy, ranges from real images, written into the graph."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.calibration import CalibrationSet
from calib.calibration_source import Track, silent
from calib.precision.policy import Decision, PolicyName, check_kept, decide
from export.graph.layers import read_layers, tensor_shapes
from export.quantize.qdq import FP16_NORMAL, INT8_MAX, Weights, insert_qdq
from export.quantize.ranges import Range, collect_ranges

Method = Literal["max", "entropy", "percentile", "mse"]
MIN_AMAX = INT8_MAX * FP16_NORMAL
MAX_TAPPED_BYTES = 256 * 2**20  # activations of one calibration batch


@dataclass(frozen=True)
class QuantizeOptions:
    """What is quantized and how: recipe keys `quantize.*` of the same names."""

    policy: PolicyName = "weights"
    method: Method = "max"
    percentile: float = 99.99
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    weight_bits: int = 8


DEFAULTS = QuantizeOptions()


@dataclass(frozen=True)
class Quantized:
    """What was decided for each product and residual sum, and the range of each activation by tensor."""

    decisions: list[Decision]
    ranges: dict[str, Range]
    tensors: dict[str, tuple[str, ...]]  # activations with Q/DQ, by the name of their layer


def quantize_int8(
    source: Path, target: Path, calibration: CalibrationSet, options: QuantizeOptions = DEFAULTS
) -> Quantized:
    """Write `source` (FP32) with Q/DQ to `target`, the rest left in FP32.

    Weights per channel, activations per tensor, both symmetric. InputError as `apply_policy`.
    """
    proto = onnx.load(source)
    found = apply_policy(proto, calibration, options)
    onnx.save(write_quantized(proto, found, weight_bits=options.weight_bits), target)
    return found


def apply_policy(
    proto: onnx.ModelProto, calibration: CalibrationSet, options: QuantizeOptions, track: Track = silent
) -> Quantized:
    """What the policy decides, with the ranges of its activations (`find_ranges`).

    InputError where the policy or a pattern finds nothing, and where all layers of a kind that it names are too faint.
    """
    decisions = decide(read_layers(proto), options.policy, options.include, options.exclude)
    found = find_ranges(proto, decisions, calibration, options, track)
    check_kept(options.policy, decisions, found.decisions)
    return found


def find_ranges(
    proto: onnx.ModelProto,
    decisions: Sequence[Decision],
    calibration: CalibrationSet,
    options: QuantizeOptions,
    track: Track = silent,
) -> Quantized:
    """Calibrate every activation that `decisions` quantize, in one pass; layers with a faint activation are left out.

    `track` shows how far along the pass is.
    """
    tensors = activations(proto, decisions)
    names = list(dict.fromkeys(name for group in tensors.values() for name in group))
    batches = calibration_batches(proto, names, calibration, track)
    return leave_out_faint(
        decisions, tensors, collect_ranges(proto, names, batches, options.method, options.percentile)
    )


def leave_out_faint(
    decisions: Sequence[Decision], tensors: Mapping[str, tuple[str, ...]], ranges: Mapping[str, Range]
) -> Quantized:
    """Without the layers that have an activation so small, or always zero, that FP16 cannot hold its scale."""
    chosen = []
    for decision in decisions:
        faintest = min((ranges[name].amax for name in tensors.get(decision.layer.name, ())), default=MIN_AMAX)
        if decision.int8 and faintest < MIN_AMAX:
            told = "is always zero" if faintest == 0 else f"stays under {faintest:.2g}: too small for a scale in FP16"
            decision = Decision(decision.layer, f"an activation of it {told}")
        chosen.append(decision)
    return Quantized(_whole_attentions(decisions, chosen), dict(ranges), dict(tensors))


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
    """`proto` with INT8 Q/DQ as `found` says, checked; the other options are those of `insert_qdq`."""
    amax = {name: found_range.amax for name, found_range in found.ranges.items()}
    quantized = insert_qdq(
        proto, found.decisions, amax, weight_bits=weight_bits, weights=weights, weight_amax=weight_amax
    )
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def activations(proto: onnx.ModelProto, decisions: Sequence[Decision]) -> dict[str, tuple[str, ...]]:
    """The tensors of each quantized layer that need a range: its inputs but the constant one, and its output if asked."""
    nodes = {node.name: node for node in proto.graph.node}
    found: dict[str, tuple[str, ...]] = {}
    for decision in decisions:
        layer, node = decision.layer, nodes[decision.layer.name]
        names = [
            node.input[index] for index in decision.inputs if not (layer.weight_shape and index == layer.weight_input)
        ]
        if names:
            found[layer.name] = (*names, *(node.output[:1] if decision.output else ()))
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
