"""The optional keys of report.json: what each engine changes image by image, and how its latency is spread."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.images import ImageSplit
from pipeline.artifact import Artifact
from pipeline.report.values.schema import check_report
from pipeline.tasks.comparison import compare, enough_images


def read_comparisons(export: Artifact, evaluate: Artifact, split: ImageSplit) -> dict[str, dict[str, Any]]:
    """`comparison` of every engine that ran, by name, from the stored logits of both; `split` are the images in order."""
    with np.load(export.path("reference.npz"), allow_pickle=False) as stored:
        reference, labels = stored["logits"], stored["labels"]
    if tuple(labels.tolist()) != split.labels:
        raise ValueError(f"{split.root} is not what was evaluated: run the evaluate stage again")
    with np.load(evaluate.path("logits.npz"), allow_pickle=False) as stored:
        return {
            name: compare(_rows(stored[name]), reference, labels, split.classes, split.names)
            for name in stored.files
            if not name.startswith("graph:")
        }


def _rows(logits: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(logits, dtype=np.float32)


def add_details(
    report: dict[str, Any], reference: dict[str, Any], comparisons: Mapping[str, dict[str, Any]], benchmark: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """`report` with the optional keys of what is there, checked; `benchmark` is benchmark.json."""
    variants = []
    for variant in report["variants"]:
        more: dict[str, Any] = {}
        if variant["name"] in comparisons and variant["top1"] is not None:
            more["comparison"] = comparisons[variant["name"]]
        measured = benchmark["variants"].get(variant["name"], {})
        if measured.get("percentiles_ms"):
            more["percentiles_ms"] = measured["percentiles_ms"]
        if gpu := on_gpu(measured):
            more["on_gpu"] = gpu
        variants.append(variant | more)
    images, share = report["dataset"]["eval_images"], report["gate"]["min_relative_top1"]
    detailed = report | {"variants": variants, "reference": {key: reference[key] for key in ("name", "top1", "top5")}}
    if comparisons:
        detailed["enough_images"] = enough_images(variants, images, reference["top1"], share)
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
