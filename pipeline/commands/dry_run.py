"""`--dry-run`: which stages would run and why. Reads manifests and images' names, sizes and times; writes nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calib.errors import InputError
from pipeline.artifact import Artifact, read_artifact, read_manifest
from pipeline.recipe import Recipe
from pipeline.run.checks import check_before_running
from pipeline.stages import Identity, Stage, find_work, identify, interrupted, wanted_stages

_NEW = "it has not run yet"
_WIDTH = 150  # characters of a reason on the terminal
Plan = Literal["unchanged", "runs", "depends"]


@dataclass(frozen=True)
class Planned:
    """What would become of a stage. `depends`: it runs unless the stages before it make what they made before."""

    stage: str
    plan: Plan
    reasons: tuple[str, ...]


def plan_stages(recipe: Recipe, run_folder: Path, last: str) -> list[Planned]:
    """Every stage up to `last` that the recipe wants, in order."""
    done: dict[str, Artifact] = {}
    changing: set[str] = set()
    planned: list[Planned] = []
    for stage in wanted_stages(recipe, last):
        folder = run_folder / stage.name
        plan = _plan(stage, recipe, done, folder, changing)
        planned.append(plan)
        artifact = read_artifact(folder)
        if artifact is not None:
            done[stage.name] = artifact
        if plan.plan != "unchanged":
            changing.add(stage.name)
    return planned


def check_plan(recipe: Recipe, planned: list[Planned]) -> None:
    """InputError for what is bound to fail in what is planned, before hours of training or after it."""
    running = {row.stage for row in planned if row.plan != "unchanged"}
    if running & {"train", "calibrate"}:
        check_before_running(recipe, training="train" in running)


def _plan(
    stage: Stage, recipe: Recipe, done: Mapping[str, Artifact], folder: Path, changing: set[str]
) -> Planned:  # fmt: skip
    manifest = read_manifest(folder)
    if manifest is None:
        return Planned(stage.name, "runs", (_begun(stage, recipe, done, folder, changing),))
    if read_artifact(folder) is None:
        return Planned(stage.name, "runs", tuple(_damaged(folder, manifest)))
    before = [name for name in stage.inputs if name in changing]
    try:
        found = identify(stage, recipe, {name: done[name] for name in stage.inputs if name in done}, unpack=False)
    except InputError as error:
        return Planned(stage.name, "depends", (f"images: {error.what} ({error.got})",))
    reasons = _differences(stage, manifest, found, before)
    if reasons:
        return Planned(stage.name, "runs", tuple(reasons))
    if before:
        return Planned(stage.name, "depends", (f"unless {', '.join(before)} makes what it made before",))
    if manifest["key"] != found.key:
        return Planned(stage.name, "runs", ("its key is not that of what its manifest lists",))
    return Planned(stage.name, "unchanged", ())


def _begun(stage: Stage, recipe: Recipe, done: Mapping[str, Artifact], folder: Path, changing: set[str]) -> str:
    """What a stage without a result starts from."""
    going_on = "it was interrupted, and goes on from there"
    if changing & set(stage.inputs):
        return f"{going_on} if the stages before make what they made" if interrupted(stage, folder) else _NEW
    try:
        found = identify(stage, recipe, {name: done[name] for name in stage.inputs if name in done}, unpack=False)
    except InputError:
        return _NEW
    if find_work(stage, folder, found.work_key):
        return going_on
    return (
        f"{_NEW} with these values, images and inputs; others were interrupted" if interrupted(stage, folder) else _NEW
    )


def _damaged(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    sizes = manifest.get("sizes", {})
    wrong = [
        name for name, size in sizes.items() if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]
    return [f"its output {name} is missing or was changed" for name in wrong] or ["its manifest is incomplete"]


def _differences(stage: Stage, manifest: Mapping[str, Any], found: Identity, changing: list[str]) -> list[str]:
    """What is not as the manifest has it: recipe keys with both values, inputs, images, source, backends.

    Inputs that are `changing` are left out: what they will be is not known yet.
    """
    reasons = [f"recipe: {line}" for line in _changed_keys("", manifest["recipe"], found.parts)]
    kept = manifest["inputs"]
    reasons += [f"input: {name} is new" for name in found.inputs if name not in kept]
    reasons += [f"input: {name} is no longer there" for name in kept if name not in {*found.inputs, *changing}]
    reasons += [
        f"input: {name} has changed"
        for name, digest in found.inputs.items()
        if name not in changing and kept.get(name, digest) != digest
    ]
    versions = manifest["versions"]
    reasons += [
        f"version: {name} {versions.get(name) or 'none'} → {version or 'none'}"
        for name, version in found.backends.items()
        if versions.get(name) != version
    ]
    images = manifest["images"]
    reasons += [f"images: {name} has changed" for name, mark in found.images.items() if images.get(name) != mark]
    if manifest["source"] != found.source:
        reasons.append("images: calibrate.source has changed")
    return reasons


def _changed_keys(prefix: str, before: Any, now: Any) -> list[str]:
    """`train.epochs 4 → 5`, for every leaf that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in dict.fromkeys([*before, *now])
            for line in _changed_keys(f"{prefix}.{key}".lstrip("."), before.get(key), now.get(key))
        ]
    return [] if before == now else [f"{prefix} {json.dumps(before)} → {json.dumps(now)}"]


def print_plan(planned: list[Planned]) -> None:
    """A line for each stage, its reasons below it."""
    for row in planned:
        said = {"unchanged": "unchanged", "runs": "would run", "depends": "may run"}[row.plan]
        first, *rest = row.reasons or ("",)
        print(f"{row.stage:>11}: {said}{': ' + _short(first) if first else ''}")
        for reason in rest:
            print(f"{'':>13}{_short(reason)}")


def _short(reason: str) -> str:
    """A line; --json has all of it."""
    return reason if len(reason) <= _WIDTH else reason[: _WIDTH - 1] + "…"
