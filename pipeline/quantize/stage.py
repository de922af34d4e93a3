"""The quantize stage: from the FP32 graph, one graph for each precision, with its casts and Q/DQ."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from calib.calibration import CalibrationSet, load_calibration_set
from calib.precision.policy import PolicyName, cover, performer_kernel
from export.engines.spec import ON_REQUEST, written_graphs
from export.graph.layers import count_precisions, read_layers
from export.onnx_export import read_metadata
from export.quantize.fp32_tensors import list_fp32_tensors
from export.quantize.gpu_graph import write_gpu_graph
from export.quantize.qdq import to_fp8
from pipeline.artifact import Artifact
from pipeline.quantize.decisions import write_decisions
from pipeline.quantize.graphs import QuantizedGraph, quantize_graphs
from pipeline.recipe import Recipe

FP16 = "-fp16"  # end of a precision's name: the same Q/DQ, everything else in FP16
BF16 = "-bf16"  # the same graph, for an engine that computes everything else in BF16


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `<precision>.onnx` for each precision of the recipe, `<precision>-<backend>.onnx` for each backend that reads INT8 in
    a dialect, and `decisions-<graph>.json` for each quantized one."""
    source = inputs["export"].path("fp32.onnx")
    proto = onnx.load(source)
    spec, _ = read_metadata(proto)
    calibration = load_calibration_set(inputs["calibrate"].path("calibration.npz"), spec)
    wanted = recipe.quantize.precisions
    onnx.save(list_fp32_tensors(proto), folder / "fp32.onnx")
    if "fp16" in wanted:
        _cast(proto, folder / "fp16.onnx", calibration, set())
    notes = {}
    quantized = [name for name in wanted if name not in ("fp32", "fp16", "bf16")]
    for base in dict.fromkeys(name.removesuffix(FP16).removesuffix(BF16) for name in quantized):
        graphs = quantize_graphs(base, recipe, inputs, calibration)
        for name, graph in graphs.items():
            write_decisions(graph, name, folder)
            _tell_forms(name, graph)
            notes[name] = graph.notes | ({} if base == "auto" else _tell_kinds(name, recipe.quantize.policy, graph))
        _write(graphs, base, {base, base + FP16, base + BF16} & set(wanted), calibration, folder)
    layers = {path.stem: count_precisions(onnx.load(path)) for path in sorted(folder.glob("*.onnx"))}
    for name, counts in layers.items():
        print(f"           {name:>9}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count))
    return {"layers": layers, "pinned_fp32": len(performer_kernel(read_layers(proto))), "quantized": notes}


def narrow(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce `build` in a recipe's `parts` to the backends whose graphs are written only for it; without any it is no part."""
    kept = {name: part for name, part in parts.items() if name != "build"}
    asked = [name for name in written_graphs(parts.get("build", ())) if name in ON_REQUEST]
    return kept | ({"build": [{"backend": name} for name in asked]} if asked else {})


def _tell_forms(name: str, graph: QuantizedGraph) -> None:
    """Print the token attentions whose soft split is not in the form that the engine reads, because it was not recognised."""
    for module in graph.found.dialect.left_as_exported(graph.proto):
        print(
            f"           {name}: the soft split of {module} stays a convolution in floating point: it is not written as ours"
        )


def _tell_kinds(name: str, policy: PolicyName, graph: QuantizedGraph) -> dict[str, Any]:
    """For each kind of layer that the policy names: how many are quantized, and why the others are not, which is printed."""
    rows = cover(policy, graph.found.decisions)
    for row in rows:
        if row.left_out:
            print(f"           {name}, {policy}: {row}")
    return {"kinds": [asdict(row) for row in rows]}


def _write(
    graphs: Mapping[str, QuantizedGraph], base: str, wanted: set[str], calibration: CalibrationSet, folder: Path
) -> None:
    """Write the graphs with FP32 around their Q/DQ, and the one with FP16, for GPUs, whose builder needs weights as floats."""
    for name, graph in graphs.items() if {base, base + BF16} & wanted else ():
        written = list_fp32_tensors(graph.write("as they are" if graph.fp8 else "stored"))
        onnx.save(_finish(written, graph.fp8), folder / f"{name}.onnx")
    if base + FP16 not in wanted:
        return
    graph = graphs[base]
    quantized = {decision.layer.name for decision in graph.found.decisions if decision.int8}
    target = folder / f"{base}{FP16}.onnx"
    _cast(graph.write("as they are" if graph.fp8 else "on grid"), target, calibration, quantized)
    onnx.save(_finish(onnx.load(target), graph.fp8), target)


def _cast(proto: onnx.ModelProto, target: Path, calibration: CalibrationSet, quantized: set[str]) -> None:
    """Write the graph for GPUs; print the token attentions that stay as exported because they are quantized."""
    for module, reason in write_gpu_graph(proto, target, calibration, quantized).skipped:
        print(f"           {target.stem}: {module} stays as it was exported, with more kernels: {reason}")


def _finish(proto: onnx.ModelProto, fp8: bool) -> onnx.ModelProto:
    """Change INT8 Q/DQ to FP8 where wanted. Last, because the cast to FP16 runs the graph with ONNX Runtime, which refuses
    FP8 products."""
    return to_fp8(proto) if fp8 else proto
