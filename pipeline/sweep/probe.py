"""Latency before training: a network with random weights is as fast as a trained one, so what is too slow need not be trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.artifact import hash_of
from pipeline.data.look import Look
from pipeline.parts.data import DataPart
from pipeline.recipe import Recipe, recipe_of
from pipeline.resolve.resolve import resolve
from pipeline.sweep.planning.plan import Planned, write_recipe
from pipeline.sweep.planning.points import Point, with_values
from pipeline.sweep.running.node import Made, NotMade
from pipeline.tasks.words import CLASSIFICATION
from pipeline.training.checkpoint import Checkpoint, write_checkpoint
from pipeline.training.network import create_network

TOLERANCE = 1.1  # of the budget: what two measurements of one engine may differ by
_IMAGES = 64  # of each split: nothing is learned of them
# What random weights can be measured in; the other precisions are found or trained, and not faster than INT8.
_MEASURED = ("fp32", "fp16", "int8", "int8-fp16", "bf16", "int8-bf16")
_SEED = 0


def probes_of(planned: Sequence[Planned], place: Path) -> list[Planned]:
    """For each point that trains, a run in `place` that builds and measures its engines of random weights; written there."""
    probes = []
    for one in planned:
        values = _values(one, place)
        if values is None:
            continue
        plain = with_values(one.point.plain, values)
        recipe = recipe_of(plain, f"point {one.point.name} with random weights", "this is a bug: please report it")
        point = Point(one.point.name, one.point.values, plain, recipe)
        probes.append(Planned(point, resolve(recipe), place / point.name, "benchmark"))
        write_recipe(probes[-1], place.parent)
    return probes


def latencies(found: Made | NotMade) -> dict[str, float]:
    """p50 at batch 1 in ms by engine's name, as `benchmark.json` has it; empty where the probe failed, which decides nothing."""
    if isinstance(found, NotMade):
        return {}
    measured = json.loads((found.folder / "benchmark.json").read_text(encoding="utf-8"))
    return {name: row["latency_ms"]["p50"] for name, row in measured["variants"].items() if row.get("latency_ms")}


def too_slow(found: Mapping[str, float], budget_ms: float) -> NotMade | None:
    """Why a point is not trained: its fastest engine is over the budget, by more than measurements differ."""
    if not found or min(found.values()) <= TOLERANCE * budget_ms:
        return None
    name = min(found, key=lambda name: found[name])
    reason = f"with random weights its fastest engine, {name}, takes {found[name]:.2f} ms, over the budget of {budget_ms:g} ms"
    return NotMade("skipped", "train", reason)


def _values(one: Planned, place: Path) -> dict[str, Any] | None:
    """What the probe's recipe has in other values than the point's; None where there is nothing to train or to measure."""
    recipe = one.resolved.recipe
    build = [entry for part in recipe.build if (entry := _engine(part.model_dump(mode="json", by_alias=True)))]
    if recipe.train.epochs == 0 or not build:
        return None
    changed: dict[str, Any] = {
        "train": {"epochs": 0}, "build": build, "benchmark.batch_sizes": [1], "calibrate": {},
        "quantize.precisions": list(dict.fromkeys(["fp32", *(name for part in build for name in part["precisions"])])),
        "visualize": {}, "model": _model(recipe, one.resolved.look, place),
        "preprocess": recipe.preprocess.model_dump(mode="json"),
    }  # fmt: skip
    if recipe.data.task == CLASSIFICATION.task:
        changed["data"] = _few_images(recipe.data, one.resolved.look, place)
    return changed


def _engine(part: dict[str, Any]) -> dict[str, Any] | None:
    """An entry of `build` with precisions that can be measured; None for engines of other machines' GPUs."""
    if part["targets"]:
        return None
    chosen = [name for name in part["precisions"] if name in _MEASURED]
    others = len(chosen) < len(part["precisions"])
    return part | {"precisions": chosen + (["int8"] if others and "int8" not in chosen else [])}


def _model(recipe: Recipe, look: Look, place: Path) -> dict[str, Any]:
    """The network with a file of random weights, the same for every probe of it."""
    part, classes, spec = recipe.model, look.splits()[0].classes, recipe.preprocess_spec()
    plain = part.model_dump(mode="json", exclude={"pretrained", "transfer", "positions", "checkpoint"})
    name = hash_of([plain, list(classes), spec.to_dict(), recipe.data.task])[:16]
    path = place / "weights" / f"{name}.pt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            network = create_network(part.model_copy(update={"pretrained": False}), len(classes), task=recipe.data.task)
        write_checkpoint(
            Checkpoint(part.label, part.known_size, classes, spec.to_dict(), dict(network.state_dict())), path
        )
    return plain | {"checkpoint": str(path)}


def _few_images(data: DataPart, look: Look, place: Path) -> dict[str, Any]:
    """A data set of links to the first images of each class."""
    splits = look.splits()
    folder = place / "images" / hash_of([str(data.root.resolve()), [split.root.name for split in splits]])[:16]
    for split in splits:
        share = max(1, _IMAGES // len(split.classes))
        for label, name in enumerate(split.classes):
            chosen = [path for path, of in zip(split.paths, split.labels, strict=True) if of == label][:share]
            for path in chosen:
                link = folder / split.root.name / name / path.name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(path.resolve())
    return {"name": data.name, "root": str(folder), "check": False} | (
        {"classes": data.model_dump(mode="json")["classes"]} if data.classes else {}
    )
