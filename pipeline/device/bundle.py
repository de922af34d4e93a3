"""`t2t-edge bundle`: one folder to copy to a Jetson or another device, which builds, checks and measures engines there.

It holds graphs and no engines, because TensorRT's work only with their own TensorRT version and GPU. It holds preprocessed
evaluation images, so that host and device judge the same pixels whatever OpenCV they have, and a few original image files
to compare the device's preprocessing with the host's.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.images import ImageSplit, balanced_subset
from calib.preprocess import Preprocess, load_batch
from export.engines.sidecar import sha256_of
from export.engines.spec import graph_of, why_not
from pipeline.artifact import hash_of, swap_folder, write_json
from pipeline.console.known_runs import finishing
from pipeline.console.progress import track
from pipeline.data.dataset import open_dataset
from pipeline.device.android import write_android
from pipeline.device.choice import Choice, FinishedRun, choose, describe_graph, read_run
from pipeline.device.contents import (
    ANDROID,
    DEVICE,
    EVALUATION,
    GRAPHS,
    IMAGES,
    LABELS,
    LIBRARY,
    MANIFEST,
    PREPROCESS,
    RECIPE,
    REFERENCE,
    SAMPLES,
    SCHEMA,
    TRITON,
    Recipe,
    Sample,
    Timing,
    open_bundle,
    read_manifest,
)
from pipeline.device.modules import ENTRY, ROOT, device_modules
from pipeline.device.readme import readme
from pipeline.device.reference import graph_answers, reference_answers
from pipeline.device.triton_repository import TritonModel, model_name, write_model
from pipeline.parts.data import DataPart
from pipeline.parts.measure import BenchmarkPart
from pipeline.tasks.task import Answers, Labels

_SAMPLES = 10  # original image files, at most one of each class
_CHUNK = 50  # images at once


def write_bundle(run_folder: Path, output: Path, engine: str | None, images: int, command: str) -> Path:
    """Write the bundle of a finished run to `output`, whole or not at all; it replaces an earlier one only when complete.

    It holds at most `images` evaluation images. `command` makes the bundle again, for messages on the device. Raises
    InputError, and GateFailed where no engine passes.
    """
    run = read_run(run_folder)
    _check_output(output, images)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _fill(partial, run, engine, images)
        _write_manifest(partial, command, made_of(run, engine, images))
        open_bundle(partial, "all")
        swap_folder(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _check_output(output: Path, images: int) -> None:
    if images < 1:
        raise InputError("a bundle needs evaluation images", got=images, allowed="1 or more")
    if (output / DEVICE).exists():
        raise InputError(
            "the earlier bundle holds what a device measured", got=output / DEVICE, allowed="a folder without device/",
            next_step=f"move it away: mv '{output / DEVICE}' ELSEWHERE, or give another --output",
        )  # fmt: skip
    if output.exists() and not (output / MANIFEST).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            "there is something else where the bundle would go", got=output, allowed="a new folder, or an earlier bundle",
            next_step="give another --output",
        )  # fmt: skip


def _fill(folder: Path, run: FinishedRun, engine: str | None, images: int) -> None:
    spec, classes = _described(run)
    split, chosen = _chosen_images(run, classes, images)
    (folder / EVALUATION).mkdir()
    pixels = _write_images(folder / IMAGES, split, chosen, spec)
    reference, labels = reference_answers(run, chosen, pixels)
    graphs, reasons = graph_answers(run, chosen, pixels)
    choice = choose(run, engine, reasons)
    _write_graphs(folder, run, choice)
    kept = {name: graphs[name] for name in choice.graphs()}
    arrays = {run.task.words.kept: reference, "labels": labels} | {
        f"graph:{name}": values for name, values in kept.items()
    }
    np.savez(folder / REFERENCE, **arrays)  # type: ignore[arg-type]
    samples = _write_samples(folder, split, chosen, classes)
    recipe = _recipe(run, choice, kept, reference, labels, samples)
    write_json(folder / RECIPE, recipe.to_dict())
    write_json(folder / PREPROCESS, spec.to_dict())
    (folder / LABELS).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    if recipe.triton_precision is not None:
        model = _triton_model(run, recipe, recipe.triton_precision, spec, classes)
        write_model(
            model, folder / GRAPHS / f"{graph_of('onnxruntime', recipe.triton_precision)}.onnx", folder / TRITON
        )
    precisions = {row["precision"] for row in run.report["variants"] if engine in (None, row["name"])}
    write_android(folder / ANDROID, run, precisions, spec, classes, chosen[0], pixels[0])
    (folder / "README.md").write_text(readme(recipe, (folder / ANDROID).is_dir()), encoding="utf-8")
    _write_code(folder)


def _described(run: FinishedRun) -> tuple[Preprocess, tuple[str, ...]]:
    """Preprocessing and classes from the metadata of the FP32 graph."""
    import onnx

    from export.onnx_export import read_metadata

    spec, classes = read_metadata(onnx.load(run.artifacts["export"].path("fp32.onnx")))
    if any("\n" in name for name in classes):
        raise InputError("a class name has a line end", got=[name for name in classes if "\n" in name])
    return spec, tuple(classes)


def _chosen_images(run: FinishedRun, classes: tuple[str, ...], images: int) -> tuple[ImageSplit, list[int]]:
    """The evaluation images, and the indices of those for the bundle, class-balanced."""
    _, split = open_dataset(DataPart(**run.parts["data"]))
    if split.classes != classes:
        raise InputError("the images have other classes than the network", got=split.classes, allowed=classes)
    return split, balanced_subset(split, min(images, len(split)), seed=0)


def _write_images(path: Path, split: ImageSplit, chosen: list[int], spec: Preprocess) -> NDArray[np.uint8]:
    """Write the preprocessed images as an uncompressed npy file, which a device can map instead of reading it into memory."""
    shape = (len(chosen), spec.height, spec.width, 3)
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for start in track(range(0, len(chosen), _CHUNK), "evaluation images"):
        rows = chosen[start : start + _CHUNK]
        stored[start : start + len(rows)] = load_batch([split.paths[row] for row in rows], spec)
    stored.flush()
    return np.asarray(stored)


def _write_graphs(folder: Path, run: FinishedRun, choice: Choice) -> None:
    (folder / GRAPHS).mkdir()
    quantized = run.artifacts["quantize"]
    for graph in choice.graphs():
        name = f"{graph}.onnx"
        shutil.copyfile(quantized.path(name), folder / GRAPHS / name)
        if sha256_of(folder / GRAPHS / name) != quantized.outputs[name]:
            raise InputError(
                "a graph of this run was changed", got=quantized.path(name), allowed="what its manifest lists",
                next_step=f"rm -r '{quantized.folder}' && {finishing(run.folder)}",
            )  # fmt: skip


def _write_samples(
    folder: Path, split: ImageSplit, chosen: list[int], classes: tuple[str, ...]
) -> tuple[Sample, ...]:  # fmt: skip
    """Copy the original file of the first chosen image of each class, for at most `_SAMPLES` classes; where images have none,
    of the first images."""
    (folder / SAMPLES).mkdir()
    first: dict[int, int] = {}
    for row, index in enumerate(chosen):
        first.setdefault(row if (label := split.labels[index]) < 0 else label, row)
    samples = []
    for label, row in list(first.items())[:_SAMPLES]:
        path = split.paths[chosen[row]]
        name = path.stem if split.labels[chosen[row]] < 0 else classes[label]
        file = f"{SAMPLES}/{label:04d}-{re.sub(r'[^A-Za-z0-9_-]', '_', name)}{path.suffix.lower()}"
        shutil.copyfile(path, folder / file)
        samples.append(Sample(file, row, name))
    return tuple(samples)


def _recipe(
    run: FinishedRun, choice: Choice, graphs: dict[str, Answers], reference: Answers, labels: Labels,
    samples: tuple[Sample, ...],
) -> Recipe:  # fmt: skip
    dataset, timing = run.report["dataset"], BenchmarkPart(**run.parts["benchmark"])
    best = (run.report["recommended"] or {}).get("name")
    advised = [row["precision"] for row in run.report["variants"] if row["name"] == best]
    precisions = [name for plans in choice.engines.values() for plan in plans for name in plan.precisions]
    served = [
        name for name in advised + precisions
        if graph_of("onnxruntime", name) in graphs and not why_not("onnxruntime", name)
    ]  # fmt: skip
    return Recipe(
        run=run.report["run"], model=run.report["model"], dataset=dataset["name"],
        calibration_images=dataset["calibration_images"], eval_images=len(labels), host_eval_images=dataset["eval_images"],
        gate_share=run.report["gate"][run.task.words.gate], task=run.task.words.task,
        batch_size=run.parts["evaluate"]["batch_size"],
        timing=Timing.from_dict(timing.model_dump()), engines=choice.engines,
        graphs={name: run.artifacts["quantize"].outputs[f"{name}.onnx"] for name in graphs},
        host={name: describe_graph(run.task, values, reference, labels) for name, values in graphs.items()},
        triton_precision=served[0] if served else None, left_out=choice.left_out, samples=samples,
        reference=run.artifacts["export"].notes.get("reference", "PyTorch FP32"),
        fixed_batch=run.artifacts["export"].notes.get("fixed_batch"),
    )  # fmt: skip


def _triton_model(
    run: FinishedRun, recipe: Recipe, precision: str, spec: Preprocess, classes: tuple[str, ...]
) -> TritonModel:  # fmt: skip
    """The Triton model of a precision's graph, with ONNX Runtime's rates on this machine if they were measured."""
    largest = max(plan.batch_sizes[2] for plans in recipe.engines.values() for plan in plans)
    found = [
        row["images_per_s"] or {} for row in run.report["variants"]
        if (row["backend"], row["precision"]) == ("onnxruntime", precision)
    ]  # fmt: skip
    return TritonModel(
        model_name(recipe.run),
        "onnxruntime",
        spec,
        classes,
        largest,
        found[0] if found else {},
        fixed_batch=recipe.fixed_batch,
        output=run.task.output_shape(len(classes), (spec.height, spec.width)),
    )


def _write_code(folder: Path) -> None:
    """Copy our files that the device runs from this checkout, and the command `t2t`."""
    for place in device_modules():
        target = folder / LIBRARY / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / place, target)
    shutil.copyfile(ROOT / ENTRY, folder / "t2t")
    (folder / "t2t").chmod(0o755)


def made_of(run: FinishedRun, engine: str | None, images: int) -> dict[str, Any]:
    """What a bundle depends on: `run` and `code` by hash, `engine` and `images` as they were asked for."""
    outputs = {name: artifact.outputs for name, artifact in run.artifacts.items()}
    code = {place.as_posix(): sha256_of(ROOT / place) for place in [*device_modules(), Path(ENTRY)]}
    return {"run": hash_of(outputs), "code": hash_of(code), "engine": engine, "images": images}


def is_current(folder: Path, run: FinishedRun, engine: str | None, images: int | None) -> bool:
    """Whether the bundle in `folder` is what would be written of the run now; options that are None may be any."""
    try:
        found = read_manifest(folder).get("made_of")
    except InputError:
        return False
    if not isinstance(found, dict):
        return False
    wanted = made_of(run, engine or found.get("engine"), images or found.get("images", 0))
    return found == wanted


def _write_manifest(folder: Path, command: str, source: dict[str, Any]) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: sha256_of(folder / name) for name in names}
    recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    write_json(
        folder / MANIFEST,
        {
            "schema": SCHEMA,
            "kind": "t2t-edge bundle",
            "run": recipe["run"],
            "rebuild": command,
            "made_of": source,
            "files": files,
        },
    )
