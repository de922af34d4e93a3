"""The sensitivity stage: each layer, and each group of layers, is quantized alone, and its logits compared with FP32's."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.calibration import CalibrationSet, load_calibration_set
from calib.precision.policy import Decision, decide
from calib.precision.sensitivity import Effect, Logits, alone, fingerprint, make_groups, measure_effect, summarise
from calib.preprocess import Image
from export.engines import onnxruntime_backend
from export.graph.layers import read_layers
from export.onnx_export import INPUT, OUTPUT, read_metadata
from export.quantize.dialects import DIALECTS, Dialect
from export.quantize.int8 import Quantized, QuantizeOptions, activations, find_ranges, leave_out_faint, write_quantized
from pipeline.artifact import Artifact
from pipeline.console.figures import MISSING, counted
from pipeline.console.progress import track
from pipeline.quantize.graphs import quantize_options
from pipeline.quantize.search.sensitivity_picture import draw_sensitivity
from pipeline.quantize.search.sensitivity_state import Name, Rows, read_ranges, write_ranges
from pipeline.recipe import Recipe

# Of the recipe. Layers are those of the graph that the search's backend reads.
READS = ("quantize.method", "quantize.percentile", "quantize.weight_bits", "sensitivity", "search.backend")
BATCH = 8  # images at a time
SHOWN = 5  # groups in the summary


@dataclass(frozen=True)
class Trial:
    """One measurement: the layers that are quantized together."""

    name: Name
    decisions: tuple[Decision, ...]


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `sensitivity.json` and `sensitivity.png`.

    Measurements of the same inputs are reused: those of an interrupted run in `folder`, and those of a finished run in
    `../sensitivity`.
    """
    dialect = DIALECTS[recipe.search.backend]
    proto = dialect.form(onnx.load(inputs["export"].path("fp32.onnx")))
    spec, _ = read_metadata(proto)
    calibration = load_calibration_set(inputs["calibrate"].path("calibration.npz"), spec)
    ranges_key, rows_key = _keys(recipe, inputs)
    earlier = [folder.parent / "sensitivity"]
    if recipe.quantize.method == "smoothquant":
        print("           method smoothquant: sensitivity is measured on the graph without smoothing, with method max")
    options = quantize_options(recipe.quantize)
    found = _find_ranges(proto, calibration, options, dialect, [folder, *earlier], ranges_key)
    images = calibration.spread(recipe.sensitivity.images).images
    with Rows(folder, rows_key, earlier) as rows:
        _measure(proto, found, images, recipe, rows)
        study = _study(recipe, len(images), found, rows.effects)
    (folder / "sensitivity.json").write_text(json.dumps(study, indent=1, allow_nan=False), encoding="utf-8")
    (folder / "sensitivity.png").write_bytes(draw_sensitivity(study, recipe.model.label))
    _print_summary(study)
    return {"images": len(images), "layers": len(study["layers"]), "groups": len(study["groups"])}


def _keys(recipe: Recipe, inputs: Mapping[str, Artifact]) -> tuple[str, str]:
    """The keys of stored ranges and stored rows: hashes of everything that each depends on."""
    options = quantize_options(recipe.quantize)
    ranges = fingerprint({
        "graph": inputs["export"].outputs["fp32.onnx"], "method": options.method, "percentile": options.percentile,
        "calibration": inputs["calibrate"].outputs["calibration.npz"], "backend": recipe.search.backend,
    })  # fmt: skip
    rows = fingerprint({
        "ranges": ranges, "weight_bits": options.weight_bits, "images": recipe.sensitivity.images,
        "onnxruntime": onnxruntime_backend.version(),
    })  # fmt: skip
    return ranges, rows


def _find_ranges(
    proto: onnx.ModelProto, calibration: CalibrationSet, options: QuantizeOptions, dialect: Dialect,
    folders: Sequence[Path], key: str,
) -> Quantized:  # fmt: skip
    """Every product and residual sum with the ranges of its activations, which are read from `folders` or measured, and
    stored in the first of them for the next run."""
    decisions = [alone(decision.layer) for decision in decide(read_layers(proto), "full")]
    ranges = read_ranges(folders, key)
    if ranges is None:
        print(f"           ranges of activations on {counted(len(calibration), 'image')}", flush=True)
        ranges = find_ranges(proto, decisions, calibration, options, track, dialect).ranges
    write_ranges(folders[0], key, ranges)
    return leave_out_faint(decisions, activations(proto, decisions, dialect), ranges, dialect)


def _trials(found: Quantized) -> list[Trial]:
    """Each layer, then each group of more than one layer."""
    quantized = [decision for decision in found.decisions if decision.int8]
    layers = [Trial(("layer", decision.layer.name), (decision,)) for decision in quantized]
    groups = [
        Trial(("group", name), tuple(members)) for name, members in make_groups(quantized).items() if len(members) > 1
    ]
    return layers + groups


def _measure(proto: onnx.ModelProto, found: Quantized, images: Image, recipe: Recipe, rows: Rows) -> None:
    """Measure what `rows` does not have yet and add it."""
    trials = _trials(found)
    missing = [trial for trial in trials if trial.name not in rows.effects]
    if len(missing) < len(trials):
        print(f"           {len(trials) - len(missing)} of {len(trials)} measurements are reused from an earlier run")
    if not missing:
        return
    threads = recipe.benchmark.threads
    reference = compute_logits(proto, images, threads)
    if not np.isfinite(reference).all():
        raise RuntimeError("the FP32 network's logits on calibration images have NaN or Inf: nothing to compare with")
    for trial in track(missing, "layers and groups, each quantized alone"):
        quantized = write_quantized(
            proto, replace(found, decisions=list(trial.decisions)), weight_bits=recipe.quantize.weight_bits
        )
        rows.add(trial.name, measure_effect(reference, compute_logits(quantized, images, threads)))


def compute_logits(proto: onnx.ModelProto, images: Image, threads: int) -> Logits:
    """Logits (images, classes) of the graph as written.

    Not optimised (`literal`): ONNX Runtime's INT8 kernels for a CPU without VNNI saturate in 16 bits, and that would count
    as the layer's sensitivity.
    """
    logits: list[NDArray[np.float32]] = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "graph.onnx"
        onnx.save(proto, path)
        with onnxruntime_backend.load(path, threads, literal=True) as runner:
            for start in range(0, len(images), BATCH):
                logits.append(runner.infer({INPUT: images[start : start + BATCH]})[OUTPUT])
    return np.concatenate(logits)


def _study(recipe: Recipe, images: int, found: Quantized, effects: Mapping[Name, Effect]) -> dict[str, Any]:
    """The content of `sensitivity.json`; a group of one layer is that layer."""
    layers = {name: effect for (kind, name), effect in effects.items() if kind == "layer"}
    groups = {name: effect for (kind, name), effect in effects.items() if kind == "group"}
    for name, members in make_groups(decision for decision in found.decisions if decision.int8).items():
        if len(members) == 1:
            groups[name] = layers[members[0].layer.name]
    options = quantize_options(recipe.quantize)
    return {"images": images, "method": options.method, "weight_bits": options.weight_bits} | summarise(
        found.decisions, layers, groups
    )


def _print_summary(study: Mapping[str, Any]) -> None:
    """Print the most sensitive groups, the least sensitive one, what could not be measured, and the next command."""
    ranked = sorted(study["groups"], key=lambda row: -float(row["kl"]))
    most, least = ranked[:SHOWN], ranked[SHOWN:][-1:]
    width = max((len(_title(row)) for row in most + least), default=0)
    print(
        f"           {counted(len(study['layers']), 'layer')} and {counted(len(ranked), 'group')}, each quantized alone: "
        f"KL divergence of the logits on {counted(study['images'], 'image')}"
    )
    for row in most:
        print(f"             {_title(row):<{width}}  {_numbers(row)}")
    for row in least:
        print(f"           and the least sensitive group:\n             {_title(row):<{width}}  {_numbers(row)}")
    for row in study["left_out"]:
        print(f"           left out: {row['module'] or row['node']}: {row['reason']}")
    for row in study["groups_left_out"]:
        print(f"           left out: the group {row['group']}: {row['reason']}")
    print("           next: t2t-edge search finds the fastest mix of INT8 and FP32 that holds the accuracy")


def _title(row: Mapping[str, Any]) -> str:
    count = len(row["nodes"])
    return f"{row['group']}, {count} layers" if count > 1 else str(row["group"])


def _numbers(row: Mapping[str, Any]) -> str:
    snr = MISSING if row["snr_db"] is None else f"{row['snr_db']:.1f}"
    return f"KL {row['kl']:.2e}  SNR {snr:>5} dB  agreement {row['agreement']:5.1f} %"
