"""The stages in order, and how one is run: skipped when nothing it depends on changed, whole or not at all."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.artifact import Artifact, note_places, read_artifact, read_manifest, write_manifest
from pipeline.data.look import Look
from pipeline.data.remarks import remarks
from pipeline.measure import benchmark_stage, build_stage, evaluate_stage
from pipeline.quantize import calibrate_stage, export_stage, qat_stage
from pipeline.quantize import stage as quantize_stage
from pipeline.quantize.search import sensitivity_stage
from pipeline.quantize.search import stage as search_stage
from pipeline.recipe import Recipe
from pipeline.report import stage as report_stage
from pipeline.resolve.resolve import resolve
from pipeline.run.checks import check_before_running
from pipeline.run.identify import contents_of, identify
from pipeline.run.identity import Identity, differences, made_otherwise, when
from pipeline.run.images import changed_images, note_images
from pipeline.run.kept import find_kept, put_in_place, refuse_lost
from pipeline.run.replaced import say_replaced
from pipeline.run.stage import Inputs, Stage
from pipeline.run.work import forget_key, prepare_work, work_place
from pipeline.training import stage as train_stage
from pipeline.visualize import stage as visualize_stage

_POLL_SECONDS = 0.2
_HEAD_START_SECONDS = 1.0  # for rank 0 to be the one that looks at the images, and shows how far it is


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
    Stage(
        "quantize", quantize_stage.run, ("quantize", "build"), ("export", "calibrate", "search", "qat"),
        narrow=quantize_stage.narrow,
    ),
    Stage("build", build_stage.run, ("build",), ("calibrate", "quantize"), backends=_built),
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


def run_stages(recipe: Recipe, run_folder: Path, last: str, say: Callable[[str], None] = print) -> Artifact:
    """Run every stage up to `last` in `run_folder`, skipping those that are complete; returns the last one's artifact.

    Under torchrun only rank 0 does so and speaks; the others help it in the stages that train, and wait for the rest.
    """
    done: dict[str, Artifact] = {}
    wanted = wanted_stages(recipe, last)
    if _rank() > 0:
        say = _silent
        wanted = wanted[: max(index for index, stage in enumerate(wanted) if stage.trains) + 1]
        time.sleep(_HEAD_START_SECONDS)
    resolved = resolve(recipe, decode=read_artifact(run_folder / "train") is None)
    recipe, look = resolved.recipe, resolved.look
    for line in resolved.lines:
        say(f"{'':>11}{line}")
    for stage in wanted:
        done[stage.name] = run_stage(stage, recipe, done, run_folder, look, say)
    return done[wanted[-1].name]


def wanted_stages(recipe: Recipe, last: str) -> list[Stage]:
    """The stages up to `last` that the recipe wants; `last` itself, and what it reads, even where it does not."""
    names = [stage.name for stage in STAGES]
    asked = STAGES[names.index(last)]
    needed = {last} if asked.wanted(recipe) else {last, *asked.inputs}
    return [stage for stage in STAGES[: names.index(last) + 1] if stage.name in needed or stage.wanted(recipe)]


def needed_stages(recipe: Recipe, last: str) -> list[Stage]:
    """The stage `last` and all that it is made of, in order: of what the recipe wants, without what only a later stage reads."""
    wanted = {stage.name: stage for stage in wanted_stages(recipe, last)}
    needed = {last}
    for stage in reversed(wanted.values()):
        needed |= set(stage.inputs) if stage.name in needed else set()
    return [stage for name, stage in wanted.items() if name in needed]


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _silent(_: str) -> None:
    """Ranks above 0 say nothing."""


def run_stage(
    stage: Stage, recipe: Recipe, done: Mapping[str, Artifact], run_folder: Path, look: Look, say: Callable[[str], None]
) -> Artifact:
    """Run one stage of a resolved recipe in `run_folder`, or skip it where it is complete or kept; returns its artifact.

    `done` are the artifacts of the stages that it reads, `look` is at the recipe's images.
    """
    inputs = {name: done[name] for name in stage.inputs if name in done}
    folder = run_folder / stage.name
    refuse_lost(folder)
    identity = identify(stage, recipe, inputs, look)
    if stage.name == "train":
        for line in remarks(*look.splits()):
            say(f"{'':>11}{line}")
    # In the order in which rank 0 moves them: what one look misses, the next one finds.
    work, kept, artifact = read_artifact(work_place(folder)), find_kept(folder, identity.key), read_artifact(folder)
    if artifact is not None and artifact.key == identity.key:
        say(f"{stage.name:>9}: unchanged ({folder})")
        _say_made_otherwise(folder, identity, say)
        return artifact
    only_moves = work is not None and work.key == identity.key  # killed between the manifest and the move
    if _rank() > 0:  # rank 0 keeps the books
        if stage.trains and not only_moves and kept is None:
            stage.run(recipe, inputs, work_place(folder))
        return _wait_for(folder, identity.key)
    if only_moves:
        return _put_in_place(work_place(folder), folder)
    if kept is not None:
        artifact = put_in_place(kept.folder, folder)
        say(f"{stage.name:>9}: taken back, made {when(read_manifest(folder) or {})} ({folder})")
        _say_made_otherwise(folder, identity, say)
        return artifact
    return _run(stage, recipe, inputs, identity, folder, look, say)


def _run(
    stage: Stage, recipe: Recipe, inputs: Inputs, identity: Identity, folder: Path, look: Look, say: Callable[[str], None]
) -> Artifact:  # fmt: skip
    """Run the stage, and put its result in place of an earlier one, which is kept."""
    if stage.name == "train":
        check_before_running(recipe, look, training=True)
    contents = contents_of(stage, look)
    if stage.trains and folder.is_dir():
        earlier = read_manifest(folder) or {}
        known = earlier.get("images", {})
        changed = {name: changed_images(folder.parent, known.get(name, ""), found) for name, found in contents.items()}
        images = len(look.splits()[0])
        say_replaced(stage, folder, earlier, differences(earlier, identity, (), changed), recipe, images, say)
    say(f"{stage.name:>9}: running")
    started = time.monotonic()
    work = prepare_work(stage, folder, identity.key, say)
    notes = stage.run(recipe, inputs, work)
    seconds = time.monotonic() - started
    for found in contents.values():
        note_images(folder.parent, found)
    write_manifest(work, identity.recorded(), notes=notes, seconds=seconds)
    artifact = _put_in_place(work, folder)
    look.forget()
    say(f"{stage.name:>9}: done in {seconds:.0f} s ({folder})")
    return artifact


def _put_in_place(work: Path, folder: Path) -> Artifact:
    artifact = put_in_place(work, folder)
    forget_key(folder)
    return artifact


def _say_made_otherwise(folder: Path, identity: Identity, say: Callable[[str], None]) -> None:
    """Note where the images lie now, and say what a training was made with that is another now: it is not done again for it."""
    if _rank() > 0:
        return
    manifest = read_manifest(folder) or {}
    note_places(folder, manifest, identity.places)
    if identity.trains and (lines := made_otherwise(manifest, identity)):
        say(f"{'':>11}made with other versions: {', '.join(lines)}; it is not done again for that")


def _wait_for(folder: Path, key: str) -> Artifact:
    """The artifact that rank 0 is making; where rank 0 fails, torchrun ends this process."""
    while True:
        artifact = read_artifact(folder)
        if artifact is not None and artifact.key == key:
            return artifact
        time.sleep(_POLL_SECONDS)
