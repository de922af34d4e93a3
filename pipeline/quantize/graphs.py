"""The quantized graph of each precision, as a floating-point graph with decisions for its layers and their ranges."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.calibration import CalibrationSet
from calib.precision.policy import Decision, complete, decide
from export.engines.spec import graph_of, written_graphs
from export.graph.layers import read_layers
from export.quantize.dialects import DIALECTS, PLAIN, Dialect
from export.quantize.int8 import (
    Quantized,
    QuantizeOptions,
    apply_policies,
    apply_policy,
    find_ranges,
    quantize_qkv_together,
    write_quantized,
)
from export.quantize.qdq import Weights
from export.quantize.smooth import sweep_alpha
from export.quantize.sparsify import sparsify_24
from pipeline.artifact import Artifact
from pipeline.console.progress import track
from pipeline.parts.quantize import QuantizePart
from pipeline.quantize.qat_ranges import read_ranges
from pipeline.recipe import Recipe

SWEEP_BATCH = 16  # images at a time in the alpha sweep of SmoothQuant
SWEEP_IMAGES = 128  # calibration images, evenly spaced, on which the sweep measures channels and compares alphas


@dataclass(frozen=True)
class QuantizedGraph:
    """A floating-point graph and how it is quantized. `weight_amax`, by node, replaces the ranges of the weights."""

    proto: onnx.ModelProto
    found: Quantized
    fp8: bool = False
    weight_bits: int = 8
    weight_amax: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def as_written(self) -> tuple[onnx.ModelProto, Quantized]:
        """The graph that Q/DQ go into, and what is quantized in it, with what the engine's dialect makes of them."""
        return quantize_qkv_together(self.proto, self.found)

    def write(self, weights: Weights) -> onnx.ModelProto:
        """The graph with INT8 Q/DQ."""
        return write_quantized(
            self.proto, self.found, weight_bits=self.weight_bits, weight_amax=self.weight_amax, weights=weights
        )


def quantize_graphs(
    base: str, recipe: Recipe, inputs: Mapping[str, Artifact], calibration: CalibrationSet
) -> dict[str, QuantizedGraph]:
    """The quantized graphs for one of `int8`, `fp8`, `int8-sparse`, `int8-qat` and `auto`, by the name of each: the first is the
    precision's own, which GPUs read, the others are those of the backends that read INT8 in a dialect."""
    part = recipe.quantize
    alone = base == "fp8" or not {base, f"{base}-bf16"} & set(part.precisions)  # with FP16 around it there is one graph
    own = () if alone else written_graphs(recipe.model_dump()["build"])
    names = [base, *(graph_of(backend, base) for backend in own)]
    dialects = [PLAIN, *(DIALECTS[backend] for backend in own)]
    if base == "fp8":  # `weight_bits` is for integers; FP8 weights have the eight bits of E4M3
        part = part.model_copy(update={"weight_bits": 8})
    source = inputs["export"].path("fp32.onnx")
    if base == "int8-qat":
        graphs = _trained(part, inputs["qat"], source, calibration, dialects)
    elif base == "auto":
        graphs = _searched(part, inputs["search"], source, calibration, dialects)
    else:
        proto, notes = onnx.load(source), dict[str, Any]()
        if base == "int8-sparse":
            proto, notes = _sparse(proto, part)
        if part.method == "smoothquant":
            proto, smoothing = smooth(proto, part, calibration)
            notes |= smoothing
        made = apply_policies(proto, calibration, quantize_options(part), dialects, track)
        graphs = [QuantizedGraph(form, found, base == "fp8", part.weight_bits, notes=notes) for form, found in made]
    return dict(zip(names, graphs, strict=True))


def quantize_options(part: QuantizePart) -> QuantizeOptions:
    """The recipe's options. With SmoothQuant the ranges are the largest magnitudes."""
    method = "max" if part.method == "smoothquant" else part.method
    return QuantizeOptions(part.policy, method, part.percentile, part.include, part.exclude, part.weight_bits)


def decisions_for(proto: onnx.ModelProto, part: QuantizePart) -> list[Decision]:
    """The recipe's policy, include and exclude applied to each layer."""
    return decide(read_layers(proto), part.policy, part.include, part.exclude)


def smooth(
    proto: onnx.ModelProto, part: QuantizePart, calibration: CalibrationSet
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph smoothed with the best alpha of a sweep, which is printed; unchanged where no alpha is better."""
    images = calibration.spread(SWEEP_IMAGES)
    with tempfile.TemporaryDirectory() as scratch:
        source, target, quantized = (Path(scratch) / f"{name}.onnx" for name in ("source", "smoothed", "int8"))
        onnx.save(proto, source)

        def quantize(path: Path) -> Path:
            candidate = onnx.load(path)
            found = find_ranges(candidate, decisions_for(candidate, part), images, quantize_options(part))
            onnx.save(write_quantized(candidate, found, weight_bits=part.weight_bits), quantized)
            return quantized

        sweep = sweep_alpha(source, target, lambda: images.batches(SWEEP_BATCH), part.smooth_alphas, quantize)
        for row in sweep.candidates:
            mark = " ← chosen" if row is sweep.best else ""
            print(
                f"           SmoothQuant alpha {row.name:>9}: logits' MSE {row.mse:.3g}, SNR {row.snr_db:.1f} dB{mark}"
            )
        return onnx.load(target), {"smoothquant": [row.to_dict() for row in sweep.candidates], "alpha": sweep.best.name}


def _sparse(proto: onnx.ModelProto, part: QuantizePart) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph with 2:4 sparsity, two of every four weights kept, in the weight layers that the policy quantizes."""
    names = [
        decision.layer.name for decision in decisions_for(proto, part) if decision.int8 and decision.layer.weight_shape
    ]
    sparse, layers = sparsify_24(proto, names)
    pruned = [layer for layer in layers if not layer.reason]
    print(f"           2:4 sparsity: {len(pruned)} of {len(layers)} layers")
    return sparse, {"sparse_layers": len(pruned)}


def _trained(
    part: QuantizePart, qat: Artifact, source: Path, calibration: CalibrationSet, dialects: Sequence[Dialect]
) -> list[QuantizedGraph]:
    """The network of quantization-aware training, with the ranges that were used there: those of the FP32 graph.

    What a dialect quantizes beyond that is measured on the trained network.
    """
    before = apply_policy(onnx.load(source), calibration, quantize_options(part), track)
    activations, weight_amax = read_ranges(qat.path("ranges.json"))
    if activations != {name: found_range.amax for name, found_range in before.ranges.items()}:
        raise RuntimeError("quantization-aware training used other ranges than those of this calibration set")
    proto = onnx.load(qat.path("fp32.onnx"))
    others = [dialect.trained() for dialect in dialects if dialect != PLAIN]
    made = [(proto, before), *apply_policies(proto, calibration, quantize_options(part), others, track)]
    return [
        QuantizedGraph(
            form, replace(found, ranges=found.ranges | {name: of for name, of in before.ranges.items() if name in found.ranges}),
            weight_bits=part.weight_bits, weight_amax=weight_amax, notes=qat.notes,
        )
        for form, found in made
    ]  # fmt: skip


def _searched(
    part: QuantizePart, search: Artifact, source: Path, calibration: CalibrationSet, dialects: Sequence[Dialect]
) -> list[QuantizedGraph]:
    """The FP32 graph with the layers quantized that the search chose, which may be none."""
    proto = onnx.load(source)
    chosen = json.loads(search.path("search.json").read_text(encoding="utf-8"))["int8"]
    mix = {row["node"]: (tuple(row["inputs"]), bool(row["output"])) for row in chosen}
    graphs = []
    for dialect in dialects:
        form = dialect.form(proto)
        decisions = complete(
            [
                Decision(of.layer, "found by the search" if of.layer.name in mix else "left in high precision by the search",
                         *mix.get(of.layer.name, ((), False)))
                for of in decide(read_layers(form), "full")
            ],
            dialect.rules,
        )  # fmt: skip
        found = find_ranges(form, decisions, calibration, quantize_options(part), track, dialect)
        graphs.append(QuantizedGraph(form, found, weight_bits=part.weight_bits, notes=search.notes))
    return graphs
