"""Stage 4: from the FP32 graph, one graph for each precision, with the casts and Q/DQ in the graph."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from calib.calibration import load_calibration_set
from calib.policy import Decision, performer_kernel
from export.cast_fp16 import cast_fp16
from export.layers import count_precisions, read_layers
from export.onnx_export import read_metadata
from export.quantize_int8 import quantize_int8
from pipeline.artifact import Artifact
from pipeline.recipe import Recipe


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `<precision>.onnx` for each precision of the recipe and `decisions.json` into `folder`."""
    source = inputs["export"].path("fp32.onnx")
    proto = onnx.load(source)
    spec, _ = read_metadata(proto)
    calibration = load_calibration_set(inputs["calibrate"].path("calibration.npz"), spec)
    pinned = [layer.name for layer in performer_kernel(read_layers(proto))]
    wanted = recipe.quantize.precisions
    shutil.copyfile(source, folder / "fp32.onnx")
    if "fp16" in wanted:
        cast_fp16(source, folder / "fp16.onnx", calibration, pinned)
    if {"int8", "int8-fp16"} & set(wanted):
        decisions = quantize_int8(source, folder / "int8.onnx", calibration, method=recipe.quantize.method)
        _write_decisions(decisions, folder / "decisions.json")
    if "int8-fp16" in wanted:
        cast_fp16(folder / "int8.onnx", folder / "int8-fp16.onnx", calibration, pinned)
    layers = {path.stem: count_precisions(onnx.load(path)) for path in sorted(folder.glob("*.onnx"))}
    for name, counts in layers.items():
        print(
            f"           {name:>9}: "
            + ", ".join(f"{count} {precision}" for precision, count in counts.items() if count)
        )
    return {"layers": layers, "pinned_fp32": len(pinned)}


def _write_decisions(decisions: list[Decision], path: Path) -> None:
    int8 = sum(decision.int8 for decision in decisions)
    print(f"           weight layers in INT8: {int8} of {len(decisions)} products; why, each: {path.name}")
    path.write_text(json.dumps([asdict(decision) for decision in decisions], indent=1), encoding="utf-8")
