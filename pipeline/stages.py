"""The stages in order, and how one is run: skipped when nothing it depends on changed, whole or not at all."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.engines import backend_version
from pipeline import (
    benchmark_stage,
    build_stage,
    calibrate_stage,
    evaluate_stage,
    export_stage,
    quantize_stage,
    report_stage,
    train_stage,
    visualize_stage,
)
from pipeline.artifact import Artifact, read_artifact, write_manifest
from pipeline.dataset import open_dataset
from pipeline.recipe import Recipe
from pipeline.versions import installed_versions

Inputs = Mapping[str, Artifact]


@dataclass(frozen=True)
class Stage:
    """One stage: `run(recipe, inputs, folder)` fills `folder` and returns notes for the manifest.

    `parts` are the recipe keys it reads and `inputs` the stages whose outputs it reads: its key is made of these.
    `resumes` keeps an interrupted run's folder for the next try. `uses_backends` makes installed engines part of the key.
    """

    name: str
    run: Callable[[Recipe, Inputs, Path], dict[str, Any]]
    parts: tuple[str, ...]
    inputs: tuple[str, ...]
    uses_images: bool = False
    resumes: bool = False
    uses_backends: bool = False


STAGES = (
    Stage("train", train_stage.run, ("data", "model", "preprocess", "train"), (), uses_images=True, resumes=True),
    Stage("export", export_stage.run, ("data", "model", "export", "evaluate"), ("train",), uses_images=True),
    Stage("calibrate", calibrate_stage.run, ("data", "calibrate"), ("train",), uses_images=True),
    Stage("quantize", quantize_stage.run, ("quantize",), ("export", "calibrate")),
    Stage("build", build_stage.run, ("build",), ("quantize",), uses_backends=True),
    Stage(
        "evaluate", evaluate_stage.run, ("data", "evaluate", "gate"), ("export", "calibrate", "quantize", "build"),
        uses_images=True, uses_backends=True,
    ),
    Stage(
        "visualize", visualize_stage.run, ("data", "visualize"), ("calibrate", "quantize"),
        uses_images=True, uses_backends=True,
    ),
    Stage(
        "benchmark", benchmark_stage.run, ("data", "benchmark"), ("build",), uses_images=True, uses_backends=True
    ),
    Stage("report", report_stage.run, ("data", "model", "gate"), ("train", "evaluate", "visualize", "benchmark")),
)  # fmt: skip
_VERSIONS = ("torch", "timm", "onnx", "onnxsim", "nvidia-modelopt", "numpy", "opencv-python-headless")


def run_stages(recipe: Recipe, run_folder: Path, last: str, say: Callable[[str], None] = print) -> Artifact:
    """Run every stage up to `last` in `run_folder`, skipping those that are complete; returns the last one's artifact.

    Under torchrun only rank 0 does so and speaks; the others train with it and return that artifact.
    """
    done: dict[str, Artifact] = {}
    helps = int(os.environ.get("RANK", 0)) > 0
    for stage in STAGES:
        done[stage.name] = _run_or_skip(stage, recipe, done, run_folder, _silent if helps else say)
        if stage.name == last or helps:
            return done[stage.name]
    raise AssertionError(f"no stage {last}")


def _silent(_: str) -> None:
    """Ranks above 0 say nothing."""


def _run_or_skip(
    stage: Stage, recipe: Recipe, done: Mapping[str, Artifact], run_folder: Path, say: Callable[[str], None]
) -> Artifact:
    inputs = {name: done[name] for name in stage.inputs}
    parts = {part: recipe.model_dump(mode="json")[part] for part in stage.parts}
    input_hashes = {name: _hash(artifact.outputs) for name, artifact in inputs.items()}
    images = {split.root.name: split.fingerprint() for split in open_dataset(recipe.data)} if stage.uses_images else {}
    backends = {part.backend: backend_version(part.backend) for part in recipe.build} if stage.uses_backends else {}
    key = _hash([stage.name, parts, input_hashes, images, backends])
    folder = run_folder / stage.name
    artifact = read_artifact(folder)
    if artifact is not None and artifact.key == key:
        say(f"{stage.name:>9}: unchanged ({folder})")
        return artifact
    if int(os.environ.get("RANK", 0)) > 0:  # torchrun: rank 0 keeps the books, the others only train with it
        notes = stage.run(recipe, inputs, _partial(folder))
        return Artifact(folder, key, {}, {}, notes, 0.0)
    say(f"{stage.name:>9}: running")
    started = time.monotonic()
    partial = _prepare_partial(folder, key, stage.resumes)
    notes = stage.run(recipe, inputs, partial)
    seconds = time.monotonic() - started
    (partial / _KEY).unlink()
    write_manifest(
        partial, stage=stage.name, key=key, recipe=parts, inputs=input_hashes,
        versions=installed_versions(_VERSIONS) | backends, notes=notes, seconds=seconds,
    )  # fmt: skip
    _swap(partial, folder)
    say(f"{stage.name:>9}: done in {seconds:.0f} s ({folder})")
    artifact = read_artifact(folder)
    assert artifact is not None
    return artifact


_KEY = ".key"


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _prepare_partial(folder: Path, key: str, resumes: bool) -> Path:
    """An empty work folder, or the one an interrupted run of the same key left, where the stage can go on from it."""
    partial = _partial(folder)
    if resumes and (partial / _KEY).is_file() and (partial / _KEY).read_text(encoding="utf-8") == key:
        return partial
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / _KEY).write_text(key, encoding="utf-8")
    return partial


def _swap(partial: Path, folder: Path) -> None:
    """Put the finished folder in place; the earlier one goes only when the new one stands."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
