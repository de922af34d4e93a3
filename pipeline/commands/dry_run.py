"""`--dry-run`: which stages would run and why. Reads manifests and images; writes nothing but the cache of what images hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calib.errors import InputError
from pipeline.artifact import MANIFEST, Artifact, read_artifact, read_manifest, size_of_file
from pipeline.data.look import Look
from pipeline.recipe import Recipe
from pipeline.resolve.resolve import resolve
from pipeline.run.checks import check_before_running
from pipeline.run.identify import contents_of, identify
from pipeline.run.identity import Identity, differences, when
from pipeline.run.images import changed_images
from pipeline.run.kept import find_kept, place_aside, refuse_lost
from pipeline.run.replaced import what_is_trained
from pipeline.run.stage import Stage
from pipeline.run.work import find_work, interrupted
from pipeline.stages import wanted_stages

_NEW = "it has not run yet"
_GOES_ON = "it was interrupted, and goes on from there"
_WIDTH = 150  # characters of a reason on the terminal
Plan = Literal["unchanged", "kept", "runs", "depends"]


@dataclass(frozen=True)
class Planned:
    """What would become of a stage. `kept`: an earlier result would be taken back. `depends`: it runs unless the stages before it
    make what they made before."""

    stage: str
    plan: Plan
    reasons: tuple[str, ...]


def plan_stages(recipe: Recipe, run_folder: Path, last: str, look: Look | None = None) -> list[Planned]:
    """Every stage up to `last` that the recipe wants, in order. With a `look`, `recipe` is a resolved one."""
    if look is None:
        resolved = resolve(recipe, unpack=False)
        recipe, look = resolved.recipe, resolved.look
    done: dict[str, Artifact] = {}
    changing: set[str] = set()
    planned: list[Planned] = []
    for stage in wanted_stages(recipe, last):
        plan, artifact = _plan(stage, recipe, done, run_folder / stage.name, changing, look)
        planned.append(plan)
        if artifact is not None:
            done[stage.name] = artifact
        if plan.plan in ("runs", "depends"):
            changing.add(stage.name)
    return planned


def check_plan(recipe: Recipe, planned: list[Planned], look: Look) -> None:
    """InputError for what is bound to fail in what is planned, before hours of training or after it."""
    running = {row.stage for row in planned if row.plan in ("runs", "depends")}
    if running & {"train", "calibrate"}:
        check_before_running(recipe, look, training="train" in running)


def _plan(
    stage: Stage, recipe: Recipe, done: Mapping[str, Artifact], folder: Path, changing: set[str], look: Look
) -> tuple[Planned, Artifact | None]:
    """What becomes of a stage, and the result it has, or would take back."""
    refuse_lost(folder)
    manifest, artifact = read_manifest(folder), read_artifact(folder)
    before = [name for name in stage.inputs if name in changing]
    try:
        found = identify(stage, recipe, {name: done[name] for name in stage.inputs if name in done}, look)
    except InputError as error:
        if manifest is None:
            return Planned(stage.name, "runs", (_NEW,)), None
        return Planned(stage.name, "depends", (f"images: {error.what} ({error.got})",)), artifact
    unchanged = artifact is not None and artifact.key == found.key
    if not before and not unchanged and (kept := find_kept(folder, found.key)) is not None:
        made = when(read_manifest(kept.folder) or {})
        reasons = [] if manifest is None else _reasons(stage, folder, manifest, artifact, found, before, look)
        return Planned(stage.name, "kept", (f"its result of {made} would be taken back", *reasons)), kept
    stays = f"the result of {when(manifest or {})} would stay in {place_aside(folder)}"
    if manifest is None:
        damaged = (f"its {MANIFEST} is missing or damaged", stays) if folder.is_dir() else ()
        return Planned(stage.name, "runs", damaged or (_begun(stage, folder, found, before),)), None
    if reasons := _reasons(stage, folder, manifest, artifact, found, before, look):
        if stage.trains:
            reasons += [what_is_trained(stage, manifest, recipe, len(look.splits()[0])), stays]
        if not before and find_work(stage, folder, found.key) is not None:
            reasons.append(_GOES_ON)
        return Planned(stage.name, "runs", tuple(reasons)), artifact
    if before:
        return Planned(stage.name, "depends", (f"unless {', '.join(before)} makes what it made before",)), artifact
    if not unchanged:
        return Planned(stage.name, "runs", ("its key is not that of what its manifest lists",)), artifact
    return Planned(stage.name, "unchanged", ()), artifact


def _begun(stage: Stage, folder: Path, found: Identity, before: list[str]) -> str:
    """What a stage without a result starts from."""
    if before:
        return f"{_GOES_ON} if the stages before make what they made" if interrupted(stage, folder) else _NEW
    if find_work(stage, folder, found.key):
        return _GOES_ON
    return (
        f"{_NEW} with these values, images and inputs; others were interrupted" if interrupted(stage, folder) else _NEW
    )


def _reasons(
    stage: Stage, folder: Path, manifest: Mapping[str, Any], artifact: Artifact | None, found: Identity, before: list[str],
    look: Look,
) -> list[str]:  # fmt: skip
    """Why its result is not what this recipe makes."""
    if artifact is None:
        return _damaged(folder, manifest)
    known = manifest.get("images", {})
    changed = {
        name: changed_images(folder.parent, known.get(name, ""), contents)
        for name, contents in contents_of(stage, look).items()
        if known.get(name) != contents.digest
    }
    return differences(manifest, found, before, changed)


def _damaged(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    wrong = [name for name, size in manifest.get("sizes", {}).items() if size_of_file(folder / name) != size]
    return [f"its output {name} is missing or was changed" for name in wrong] or ["its manifest is incomplete"]


def print_plan(planned: list[Planned]) -> None:
    """A line for each stage, its reasons below it."""
    for row in planned:
        said = {"unchanged": "unchanged", "kept": "would be taken back", "runs": "would run", "depends": "may run"}[
            row.plan
        ]
        first, *rest = row.reasons or ("",)
        print(f"{row.stage:>11}: {said}{': ' + _short(first) if first else ''}")
        for reason in rest:
            print(f"{'':>13}{_short(reason)}")


def _short(reason: str) -> str:
    """A line; --json has all of it."""
    return reason if len(reason) <= _WIDTH else reason[: _WIDTH - 1] + "…"
