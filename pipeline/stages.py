"""The stages in order, and how one is run: skipped when nothing it depends on changed, whole or not at all."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.calibration_source import source_fingerprint
from export.engines.engine import backend_version
from pipeline.artifact import Artifact, hash_of, read_artifact, swap_folder, write_manifest
from pipeline.data.dataset import open_dataset
from pipeline.data.remarks import remarks
from pipeline.machine.describe import installed_versions
from pipeline.measure import benchmark_stage, build_stage, evaluate_stage
from pipeline.quantize import calibrate_stage, export_stage, qat_stage
from pipeline.quantize import stage as quantize_stage
from pipeline.quantize.search import sensitivity_stage
from pipeline.quantize.search import stage as search_stage
from pipeline.recipe import Recipe, keys_of
from pipeline.report import stage as report_stage
from pipeline.run.checks import check_before_running
from pipeline.training import stage as train_stage
from pipeline.training.resume import LAST, decisive
from pipeline.visualize import stage as visualize_stage

Inputs = Mapping[str, Artifact]


@dataclass(frozen=True)
class Stage:
    """One stage: `run(recipe, inputs, folder)` fills `folder` and returns notes for the manifest.

    `parts` are what it reads of the recipe, whole parts or single keys (`quantize.policy`), of which `narrow` may leave less;
    `inputs` are the stages whose outputs it reads: its key is made of these, and of the installed versions of its
    `backends`. How many images are computed at a time decides nothing and is no part of a key.
    `resumes` keeps an interrupted run's folder for the next try.
    A stage that is not `wanted` by a recipe runs only when it is asked for by name. One that `trains` runs on every process
    of torchrun.
    """

    name: str
    run: Callable[[Recipe, Inputs, Path], dict[str, Any]]
    parts: tuple[str, ...]
    inputs: tuple[str, ...]
    uses_images: bool = False
    resumes: bool = False
    trains: bool = False
    wanted: Callable[[Recipe], bool] = lambda _: True
    backends: Callable[[Recipe], tuple[str, ...]] = lambda _: ()
    narrow: Callable[[dict[str, Any]], dict[str, Any]] = lambda parts: parts

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What it reads of a recipe's plain values."""
        return self.narrow(keys_of(values, self.parts))


def _makes(base: str) -> Callable[[Recipe], bool]:
    """Whether a recipe makes precision `base`, with FP32 or with FP16 around it."""
    return lambda recipe: bool({base, f"{base}-fp16"} & set(recipe.quantize.precisions))


def _built(recipe: Recipe) -> tuple[str, ...]:
    """The backends of the recipe's engines."""
    return tuple(dict.fromkeys(part.backend for part in recipe.build))


STAGES = (
    Stage("train", train_stage.run, ("data", "model", "preprocess", "train"), (), uses_images=True, resumes=True, trains=True),
    Stage("export", export_stage.run, ("data", "model", "export"), ("train",), uses_images=True),
    Stage("calibrate", calibrate_stage.run, ("data", "calibrate"), ("train", "export"), uses_images=True),
    Stage(
        "sensitivity", sensitivity_stage.run, sensitivity_stage.READS, ("export", "calibrate"), resumes=True,
        wanted=_makes("auto"),
    ),
    Stage(
        "search", search_stage.run, search_stage.READS,
        ("train", "export", "calibrate", "sensitivity"), uses_images=True, resumes=True, wanted=_makes("auto"),
        backends=lambda recipe: (recipe.search.backend, "onnxruntime"), narrow=search_stage.narrow,
    ),
    Stage(
        "qat", qat_stage.run, qat_stage.READS, ("train", "export", "calibrate"), uses_images=True, resumes=True, trains=True,
        wanted=_makes("int8-qat"),
    ),
    Stage("quantize", quantize_stage.run, ("quantize",), ("export", "calibrate", "search", "qat")),
    Stage("build", build_stage.run, ("build",), ("quantize",), backends=_built),
    Stage(
        "evaluate", evaluate_stage.run, ("data", "evaluate", "gate"), ("export", "calibrate", "quantize", "build"),
        uses_images=True, backends=_built,
    ),
    Stage(
        "visualize", visualize_stage.run, ("data", "visualize", "build"), ("calibrate", "quantize"), uses_images=True,
        backends=lambda recipe: (recipe.visualize.backend, "onnxruntime"), narrow=visualize_stage.narrow,
    ),
    Stage(
        "benchmark", benchmark_stage.run, ("data", "benchmark"), ("build",), uses_images=True, backends=_built
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
        return self._hash(self.parts)

    @property
    def work_key(self) -> str:
        """An interrupted run of the stage goes on when its work has this key."""
        return self._hash(decisive(self.parts))

    def _hash(self, parts: dict[str, Any]) -> str:
        return hash_of([self.stage, parts, self.inputs, self.images, self.backends, self.source])


def identify(stage: Stage, recipe: Recipe, inputs: Inputs, *, unpack: bool = True) -> Identity:
    """What `stage` depends on now. Without `unpack`, images that are still packed are an InputError: nothing is written."""
    splits = open_dataset(recipe.data, unpack=unpack) if stage.uses_images else ()
    return Identity(
        stage.name,
        stage.read(recipe.model_dump(mode="json")),
        {name: hash_of(artifact.outputs) for name, artifact in inputs.items()},
        {split.root.name: split.fingerprint() for split in splits},
        {name: backend_version(name) for name in stage.backends(recipe)},
        source_fingerprint(recipe.calibrate.source) if stage.name == "calibrate" else "",
    )


def interrupted(stage: Stage, folder: Path) -> bool:
    """Whether an earlier run of the stage left work that it goes on from, if nothing has changed since."""
    return stage.resumes and _read_key(_partial(folder)) is not None


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
    if stage.name == "train":
        for line in remarks(*open_dataset(recipe.data)):
            say(f"{'':>11}{line}")
    finished = read_artifact(_partial(folder))  # read before the folder: rank 0 moves it there
    artifact = read_artifact(folder)
    if artifact is not None and artifact.key == key:
        say(f"{stage.name:>9}: unchanged ({folder})")
        return artifact
    only_moves = finished is not None and finished.key == key  # killed between the manifest and the move
    if _rank() > 0:  # rank 0 keeps the books
        if stage.trains and not only_moves:
            stage.run(recipe, inputs, _partial(folder))
        return _wait_for(folder, key)
    if only_moves:
        return _put_in_place(folder)
    if stage.name == "train":
        check_before_running(recipe, training=True)
    say(f"{stage.name:>9}: running")
    started = time.monotonic()
    partial = _prepare_partial(stage, folder, identity.work_key, say)
    notes = stage.run(recipe, inputs, partial)
    seconds = time.monotonic() - started
    write_manifest(
        partial, stage=stage.name, key=key, recipe=identity.parts, inputs=identity.inputs, images=identity.images,
        source=identity.source, versions=installed_versions(_VERSIONS) | identity.backends, notes=notes, seconds=seconds,
    )  # fmt: skip
    artifact = _put_in_place(folder)
    say(f"{stage.name:>9}: done in {seconds:.0f} s ({folder})")
    return artifact


def _put_in_place(folder: Path) -> Artifact:
    """Move the finished work folder to `folder`."""
    swap_folder(_partial(folder), folder)
    (folder / _KEY).unlink(missing_ok=True)
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


def find_work(stage: Stage, folder: Path, key: str) -> Path | None:
    """The work folder of an interrupted run with this key, in its place or set aside; None where there is none."""
    for path in (_partial(folder), _aside(folder, key)):
        if stage.resumes and _read_key(path) == key:
            return path
    return None


def _aside(folder: Path, key: str) -> Path:
    """Where the interrupted work of `key` is kept while another's has its place."""
    return _partial(folder).with_name(f"{_partial(folder).name}.{key[:8]}")


def _read_key(work: Path) -> str | None:
    return (work / _KEY).read_text(encoding="utf-8") if (work / _KEY).is_file() else None


def _prepare_partial(stage: Stage, folder: Path, key: str, say: Callable[[str], None]) -> Path:
    """An empty work folder, or the one an interrupted run of the same key left, where the stage can go on from it.

    A training that another key has interrupted is days of work: it is set aside, and goes on when its key comes back.
    """
    partial, work = _partial(folder), find_work(stage, folder, key)
    if work == partial:
        return partial
    if (partial / LAST).is_file():
        kept = _aside(folder, _read_key(partial) or "unknown")
        os.rename(partial, kept)
        say(f"{stage.name:>9}: an interrupted training with other values, images or inputs is kept as {kept}")
        say(f"{'':>9}  (with what it was begun with it goes on; if it is not needed: rm -r '{kept}')")
    shutil.rmtree(partial, ignore_errors=True)
    if work is not None:
        os.rename(work, partial)
        say(f"{stage.name:>9}: goes on with the interrupted training that was kept as {work}")
        return partial
    partial.mkdir(parents=True)
    (partial / _KEY).write_text(key, encoding="utf-8")
    return partial
