"""The optional keys of report.json: what each engine changes image by image, and how its latency is spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.images import ImageSplit
from calib.preprocess import Preprocess
from pipeline.artifact import Artifact
from pipeline.report.values.schema import check_report
from pipeline.tasks.task import Task, task_named
from pipeline.tasks.words import words_of


@dataclass(frozen=True, eq=False)
class Answers:
    """What FP32 and the engines said of the evaluation's images: logits (N, C) float32, or class maps (N, H, W) uint8.

    `labels` are what is right, (N,) or (N, H, W); `engines` by name.
    """

    reference: NDArray[Any]
    labels: NDArray[Any]
    engines: dict[str, NDArray[Any]]


def read_answers(export: Artifact, evaluate: Artifact, task: Task) -> Answers:
    """The stored answers of every engine that ran."""
    kept = task.words.kept
    with np.load(export.path("reference.npz"), allow_pickle=False) as stored:
        reference, labels = stored[kept], stored["labels"]
    with np.load(evaluate.path(f"{kept}.npz"), allow_pickle=False) as stored:
        engines = {
            name: np.asarray(stored[name], dtype=reference.dtype)
            for name in stored.files
            if not name.startswith("graph:")
        }
    return Answers(reference, labels, engines)


def compare_answers(answers: Answers, split: ImageSplit, spec: Preprocess, task: Task) -> dict[str, dict[str, Any]]:
    """`comparison` of every engine that ran, by name; `split` are the images in order."""
    if not np.array_equal(answers.labels, task.labels(split, slice(None), spec)):
        raise ValueError(f"{split.root} is not what was evaluated: run the evaluate stage again")
    return {
        name: task.compare(ours, answers.reference, answers.labels, split.classes, split.names)
        for name, ours in answers.engines.items()
    }


def add_details(
    report: dict[str, Any], reference: dict[str, Any], comparisons: Mapping[str, dict[str, Any]], benchmark: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """`report` with the optional keys of what is there, checked; `benchmark` is benchmark.json."""
    words, variants = words_of(report), []
    for variant in report["variants"]:
        more: dict[str, Any] = {}
        if variant["name"] in comparisons and variant[words.score] is not None:
            more["comparison"] = comparisons[variant["name"]]
        measured = benchmark["variants"].get(variant["name"], {})
        if measured.get("percentiles_ms"):
            more["percentiles_ms"] = measured["percentiles_ms"]
        if gpu := on_gpu(measured):
            more["on_gpu"] = gpu
        variants.append(variant | more)
    images, share = report["dataset"]["eval_images"], report["gate"][words.gate]
    kept = {key: reference[key] for key in ("name", words.score, words.second)}
    detailed = report | {"variants": variants, "reference": kept}
    if comparisons:
        detailed["enough_images"] = task_named(words.task).enough_images(
            variants, images, reference[words.score], share
        )
    check_report(detailed)
    return detailed


def on_gpu(measured: dict[str, Any]) -> dict[str, Any] | None:
    """What report.json keeps as a variant's `on_gpu`; `measured` is its part of benchmark.json. None for a CPU's engine."""
    times, mode = measured.get("device_latency_ms"), measured.get("run_mode")
    if not times or not mode:
        return None
    energy = {
        size: {key: one[key] for key in ("mj_per_image", "watts", "source", "clocks_mhz")}
        for size, one in measured["energy"].items()
        if one["mj_per_image"] is not None
    }
    return {
        "latency_ms": {key: times[key] for key in ("p50", "p90", "p99")},
        "parts_ms": {key: times[key] for key in ("copy_in", "compute", "copy_out")},
        "graphs": mode["graphs"], "sync": mode["sync"], "transfers": mode["transfers"], "energy": energy,
    }  # fmt: skip


def flipped(report: dict[str, Any], split_root: Path) -> dict[str, Path]:
    """The images that `report` names as flipped, by that name."""
    flips: Sequence[dict[str, Any]] = [
        flip for variant in report["variants"] if "comparison" in variant for flip in variant["comparison"]["flips"]
    ]
    return {flip["image"]: split_root / flip["image"] for flip in flips}
