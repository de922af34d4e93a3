"""The stages in order, and how one is run: skipped when nothing it depends on changed, whole or not at all."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.calibration_source import source_fingerprint
from export.engines import backend_version
from pipeline import (
    benchmark_stage,
    build_stage,
    calibrate_stage,
    evaluate_stage,
    export_stage,
    qat_stage,
    quantize_stage,
    report_stage,
    search_stage,
    sensitivity_stage,
    train_stage,
    visualize_stage,
)
from pipeline.artifact import Artifact, hash_of, read_artifact, swap_folder, write_manifest
from pipeline.dataset import open_dataset
from pipeline.recipe import Recipe
from pipeline.versions import installed_versions

Inputs = Mapping[str, Artifact]


@dataclass(frozen=True)
class Stage:
    """One stage: `run(recipe, inputs, folder)` fills `folder` and returns notes for the manifest.

    `parts` are the recipe keys it reads and `inputs` the stages whose outputs it reads: its key is made of these.
    `resumes` keeps an interrupted run's folder for the next try. `uses_backends` makes installed engines part of the key.
    A stage that is not `wanted` by a recipe runs only when it is asked for by name. One that `trains` runs on every process
    of torchrun.
    """

    name: str
    run: Callable[[Recipe, Inputs, Path], dict[str, Any]]
    parts: tuple[str, ...]
    inputs: tuple[str, ...]
    uses_images: bool = False
    resumes: bool = False
    uses_backends: bool = False
    trains: bool = False
    wanted: Callable[[Recipe], bool] = lambda _: True


def _makes(base: str) -> Callable[[Recipe], bool]:
    """Whether a recipe makes precision `base`, with FP32 or with FP16 around it."""
    return lambda recipe: bool({base, f"{base}-fp16"} & set(recipe.quantize.precisions))


STAGES = (
    Stage("train", train_stage.run, ("data", "model", "preprocess", "train"), (), uses_images=True, resumes=True, trains=True),
    Stage("export", export_stage.run, ("data", "model", "export", "evaluate"), ("train",), uses_images=True),
    Stage("calibrate", calibrate_stage.run, ("data", "calibrate"), ("train", "export"), uses_images=True),
    Stage(
        "sensitivity", sensitivity_stage.run, ("quantize", "sensitivity"), ("export", "calibrate"), resumes=True,
        wanted=_makes("auto"),
    ),
    Stage(
        "search", search_stage.run, ("data", "quantize", "search", "gate", "build", "evaluate", "benchmark"),
        ("train", "export", "calibrate", "sensitivity"), uses_images=True, uses_backends=True, resumes=True,
        wanted=_makes("auto"),
    ),
    Stage(
        "qat", qat_stage.run, ("data", "model", "train", "export", "quantize", "qat", "evaluate"),
        ("train", "export", "calibrate"), uses_images=True, resumes=True, trains=True,
        wanted=_makes("int8-qat"),
    ),
    Stage("quantize", quantize_stage.run, ("quantize",), ("export", "calibrate", "search", "qat")),
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
    Stage(
        "report", report_stage.run, tuple(Recipe.model_fields),  # the page shows the recipe
        ("train", "export", "calibrate", "sensitivity", "search", "quantize", "evaluate", "visualize", "benchmark"),
        uses_images=True,
    ),
)  # fmt: skip
_VERSIONS = ("torch", "timm", "onnx", "onnxsim", "nvidia-modelopt", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Identity:
    """What a stage's result depends on: recipe parts, hashes of inputs, of images and of their source, backends' versions."""

    stage: str
    parts: dict[str, Any]
    inputs: dict[str, str]
    images: dict[str, str]
    backends: dict[str, str | None]
    source: str

    @property
    def key(self) -> str:
        """A stage is complete when its manifest has this key."""
        return hash_of([self.stage, self.parts, self.inputs, self.images, self.backends, self.source])


def identify(stage: Stage, recipe: Recipe, inputs: Inputs, *, unpack: bool = True) -> Identity:
    """What `stage` depends on now. Without `unpack`, images that are still packed are an InputError: nothing is written."""
    splits = open_dataset(recipe.data, unpack=unpack) if stage.uses_images else ()
    return Identity(
        stage.name,
        {part: recipe.model_dump(mode="json")[part] for part in stage.parts},
        {name: hash_of(artifact.outputs) for name, artifact in inputs.items()},
        {split.root.name: split.fingerprint() for split in splits},
        {part.backend: backend_version(part.backend) for part in recipe.build} if stage.uses_backends else {},
        source_fingerprint(recipe.calibrate.source) if stage.name == "calibrate" else "",
    )


def interrupted(stage: Stage, folder: Path) -> bool:
    """Whether an earlier run of the stage left work that it goes on from, if nothing has changed since."""
    return stage.resumes and (_partial(folder) / _KEY).is_file()


def run_stages(recipe: Recipe, run_folder: Path, last: str, say: Callable[[str], None] = print) -> Artifact:
    """Run every stage up to `last` in `run_folder`, skipping those that are complete; returns the last one's artifact.

    Under torchrun only rank 0 does so and speaks; the others help it in the stages that train, and wait for the rest.
    """
    done: dict[str, Artifact] = {}
    wanted = wanted_stages(recipe, last)
    if _rank() > 0:
        wanted = wanted[: max(index for index, stage in enumerate(wanted) if stage.trains) + 1]
    for stage in wanted:
        done[stage.name] = _run_or_skip(stage, recipe, done, run_folder, _silent if _rank() > 0 else say)
    return done[wanted[-1].name]


def wanted_stages(recipe: Recipe, last: str) -> list[Stage]:
    """The stages up to `last` that the recipe wants; `last` itself, and what it reads, even where it does not."""
    names = [stage.name for stage in STAGES]
    asked = STAGES[names.index(last)]
    needed = {last} if asked.wanted(recipe) else {last, *asked.inputs}
    return [stage for stage in STAGES[: names.index(last) + 1] if stage.name in needed or stage.wanted(recipe)]


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _silent(_: str) -> None:
    """Ranks above 0 say nothing."""


def _run_or_skip(
    stage: Stage, recipe: Recipe, done: Mapping[str, Artifact], run_folder: Path, say: Callable[[str], None]
) -> Artifact:
    inputs = {name: done[name] for name in stage.inputs if name in done}
    identity = identify(stage, recipe, inputs)
    key = identity.key
    folder = run_folder / stage.name
    artifact = read_artifact(folder)
    if artifact is not None and artifact.key == key:
        say(f"{stage.name:>9}: unchanged ({folder})")
        return artifact
    if _rank() > 0:  # rank 0 keeps the books
        if stage.trains:
            stage.run(recipe, inputs, _partial(folder))
        return _wait_for(folder, key)
    say(f"{stage.name:>9}: running")
    started = time.monotonic()
    partial = _prepare_partial(folder, key, stage.resumes)
    notes = stage.run(recipe, inputs, partial)
    seconds = time.monotonic() - started
    (partial / _KEY).unlink()
    write_manifest(
        partial, stage=stage.name, key=key, recipe=identity.parts, inputs=identity.inputs, images=identity.images,
        source=identity.source, versions=installed_versions(_VERSIONS) | identity.backends, notes=notes, seconds=seconds,
    )  # fmt: skip
    swap_folder(partial, folder)
    say(f"{stage.name:>9}: done in {seconds:.0f} s ({folder})")
    artifact = read_artifact(folder)
    assert artifact is not None
    return artifact


def _wait_for(folder: Path, key: str) -> Artifact:
    """The artifact that rank 0 is making; where rank 0 fails, torchrun ends this process."""
    while True:
        artifact = read_artifact(folder)
        if artifact is not None and artifact.key == key:
            return artifact
        time.sleep(_POLL_SECONDS)


_KEY = ".key"
_POLL_SECONDS = 0.2


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
