"""A finished run in seconds: a classifier by class means, its graphs written by hand, through the real later stages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calib.calibration import write_calibration_set
from calib.calibration_source import draw_from_split
from calib.images import ImageSplit, read_split
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend
from export.engines.spec import BACKENDS, graph_of
from export.onnx_export import CLASSES_KEY, INPUT, OUTPUT, PREPROCESS_KEY
from pipeline.artifact import Artifact, hash_of, read_artifact, write_manifest
from pipeline.measure import benchmark_stage, build_stage, evaluate_stage
from pipeline.recipe import Recipe
from pipeline.report.write import build_report, write_report
from pipeline.run.identity import Identity
from pipeline.run.stage import Stage

CELLS = 4  # along each side: the network sees the mean colour of 4 × 4 cells


def write_run(folder: Path, values: dict[str, Any], spec: Preprocess) -> None:
    """Write the stages of a run from `export` to `report` into `folder`. `values` is a recipe's YAML."""
    recipe = Recipe.model_validate(values)
    done: dict[str, Artifact] = {}

    def stage(
        name: str, parts: tuple[str, ...], inputs: tuple[str, ...], fill: Callable[[Path], dict[str, Any]]
    ) -> None:
        (folder / name).mkdir(parents=True)
        values = recipe.model_dump(mode="json")
        read = Stage(name, lambda *_: {}, parts, inputs)
        from_others = {other: hash_of(done[other].outputs) for other in inputs}
        identity = Identity(name, False, read.read(values), from_others, {}, {}, "", read.places(values))
        write_manifest(folder / name, identity.recorded(), notes=fill(folder / name), seconds=0.0)
        artifact = read_artifact(folder / name)
        assert artifact is not None
        done[name] = artifact

    train = read_split(recipe.data.root, "train")
    val = read_split(recipe.data.root, "val", train.classes, may_lack=True)
    stage("export", ("data", "model"), (), lambda path: _export(path, train, val, spec))
    stage("calibrate", ("data", "calibrate"), ("export",), lambda path: _calibrate(path, train, spec))
    stage("quantize", ("quantize",), ("export", "calibrate"), lambda path: _quantize(path, recipe, done["export"]))
    stage("build", ("build",), ("calibrate", "quantize"), lambda path: build_stage.run(recipe, done, path))
    stage(
        "evaluate", ("data", "evaluate", "gate"), ("export", "calibrate", "quantize", "build"),
        lambda path: evaluate_stage.run(recipe, done, path),
    )  # fmt: skip
    stage("benchmark", ("data", "benchmark"), ("build",), lambda path: benchmark_stage.run(recipe, done, path))
    stage(
        "report", ("data", "model", "gate"), ("evaluate", "benchmark"), lambda path: _report(path, recipe, done, spec)
    )


def _export(folder: Path, train: ImageSplit, val: ImageSplit, spec: Preprocess) -> dict[str, Any]:
    images, labels = load_batch(list(train.paths), spec), np.asarray(train.labels)
    cells = images.reshape(len(images), CELLS, spec.height // CELLS, CELLS, spec.width // CELLS, 3).mean(axis=(2, 4))
    features = (cells / 255 - spec.mean) / spec.std
    features = np.moveaxis(features, 3, 1).reshape(len(images), -1)  # as Flatten of NCHW
    means = np.stack([features[labels == label].mean(axis=0) for label in range(len(train.classes))])
    weights, bias = means.T.astype(np.float32), (-(means**2).sum(axis=1) / 2).astype(np.float32)
    onnx.save(_network(weights, bias, spec, train.classes, quantized=False), folder / "fp32.onnx")
    with onnxruntime_backend.load(folder / "fp32.onnx", 1) as runner:
        logits = runner.infer({INPUT: load_batch(list(val.paths), spec)})[OUTPUT]
    np.savez_compressed(folder / "reference.npz", logits=logits, labels=np.asarray(val.labels))
    return {}


def _calibrate(folder: Path, train: ImageSplit, spec: Preprocess) -> dict[str, Any]:
    draw = draw_from_split(train, len(train), seed=0)
    write_calibration_set(draw, spec, folder / "calibration.npz")
    return {"images": len(train)}


def _quantize(folder: Path, recipe: Recipe, exported: Artifact) -> dict[str, Any]:
    """`fp32` as it was exported, every other precision with Q/DQ around its product."""
    model = onnx.load(exported.path("fp32.onnx"))
    weights, bias = (
        numpy_helper.to_array(value) for value in model.graph.initializer if value.name in ("weights", "bias")
    )
    notes = {entry.key: entry.value for entry in model.metadata_props}
    spec, classes = Preprocess.from_dict(json.loads(notes[PREPROCESS_KEY])), json.loads(notes[CLASSES_KEY])
    for precision in recipe.quantize.precisions:
        for name in {graph_of(backend, precision) for backend in BACKENDS}:
            onnx.save(_network(weights, bias, spec, classes, precision != "fp32"), folder / f"{name}.onnx")
    return {}


def _network(weights: Any, bias: Any, spec: Preprocess, classes: Any, quantized: bool) -> onnx.ModelProto:
    """uint8 (N, H, W, 3) → normalise → mean of cells → product → logits."""
    kernel = [spec.height // CELLS, spec.width // CELLS]
    values = {
        "mean": np.float32(spec.mean).reshape(1, 3, 1, 1) * 255, "istd": 1 / (np.float32(spec.std).reshape(1, 3, 1, 1) * 255),
        "weights": weights, "bias": bias, "scale": np.float32(0.05), "zero": np.int8(0),
        "weight_scale": np.float32(np.abs(weights).max() / 127),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT), node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Sub", ["planes", "mean"], ["centred"]), node("Mul", ["centred", "istd"], ["normalised"]),
        node("AveragePool", ["normalised"], ["cells"], kernel_shape=kernel, strides=kernel),
        node("Flatten", ["cells"], ["features"]),
    ]  # fmt: skip
    operands = ["features", "weights"]
    if quantized:
        for name, scale in (("features", "scale"), ("weights", "weight_scale")):
            nodes.append(node("QuantizeLinear", [name, scale, "zero"], [f"{name}_q"]))
            nodes.append(node("DequantizeLinear", [f"{name}_q", scale, "zero"], [f"{name}_dq"]))
        operands = ["features_dq", "weights_dq"]
    nodes.append(node("Gemm", [*operands, "bias"], [OUTPUT]))
    for index, one in enumerate(nodes):
        one.name = f"node_{index:05d}"
    taken = {name for one in nodes for name in one.input}
    graph = helper.make_graph(
        nodes, "means",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", spec.height, spec.width, 3])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", len(classes)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items() if name in taken],
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {PREPROCESS_KEY: json.dumps(spec.to_dict()), CLASSES_KEY: json.dumps(list(classes))})
    onnx.checker.check_model(model)
    return model


def _report(folder: Path, recipe: Recipe, done: dict[str, Artifact], spec: Preprocess) -> dict[str, Any]:
    evaluation = json.loads(done["evaluate"].path("evaluation.json").read_text())
    benchmark = json.loads(done["benchmark"].path("benchmark.json").read_text())
    report = build_report(
        run=folder.parent.name, model="class means", evaluation=evaluation, benchmark=benchmark,
        preprocess_sha256=spec.sha256(), gate_share=recipe.gate.min_relative_top1,
    )  # fmt: skip
    write_report(report, folder, evaluation["reference"], benchmark["mode"])
    return {"recommended": report["recommended"]}
