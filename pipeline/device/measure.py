"""On the device: evaluation, benchmark and report of its engines, with the host's gate, statistics and report.json."""

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import load_image, opencv_version, preprocess
from export.engines.engine import load_engine
from export.runner import RunOptions
from pipeline.artifact import write_json
from pipeline.console.progress import track
from pipeline.device.contents import Bundle
from pipeline.device.state import BENCHMARK_JSON, EVALUATION_JSON, DeviceState
from pipeline.measure.benchmark_stage import Candidates, benchmark_engines, none_measured
from pipeline.measure.engine_failure import Missing, noted
from pipeline.measure.evaluate_stage import evaluate_variant, infer_in_chunks
from pipeline.report.values.format import DEVICE_COMMANDS
from pipeline.report.values.markdown import markdown_page
from pipeline.report.values.rows import join_report
from pipeline.tasks.task import Answers
from pipeline.tasks.words import task_key

_MAX_MEAN_LEVELS = 2.0  # of 255: decoders and resizing round differently by less, other preprocessing differs by more


def evaluate(state: DeviceState, threads: int) -> list[dict[str, Any]]:
    """Write `evaluation.json` and the engines' answers (`logits.npz`), from which a host computes it anew; return the variants,
    failed ones included. Only one engine is in memory at a time."""
    bundle = state.bundle
    levels = compare_preprocessing(bundle)
    reference, labels, graphs = bundle.reference()
    rows = state.finished_rows()
    answers: dict[str, Answers] = dict(graphs)
    missing: Missing = {}
    for row in rows:
        if row["status"] == "built":
            with noted(row["name"], missing):
                answers[row["name"]] = _infer_all(state, row, threads)
    recipe, task = bundle.recipe, bundle.task
    _keep_answers(state, {name: values for name, values in answers.items() if name not in graphs})
    scores = task.scores(reference, labels)
    score, share = scores[task.words.score], recipe.gate_share
    variants = [evaluate_variant(task, row, answers, missing, reference, score, labels, share) for row in rows]
    write_json(state.path(EVALUATION_JSON), task_key(task.words) | {
        "engines": state.engines_key(), "reference": {"name": recipe.reference} | scores,
        "dataset": {"name": recipe.dataset, "classes": len(bundle.classes), "eval_images": len(labels),
                    "calibration_images": recipe.calibration_images},
        "preprocessing": levels, "variants": variants,
    })  # fmt: skip
    return variants


def _keep_answers(state: DeviceState, answers: dict[str, Answers]) -> None:
    """Write them, whole or not at all."""
    path = state.path(f"{state.bundle.task.words.kept}.npz")
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **answers)  # type: ignore[arg-type]
    os.replace(partial, path)


def _infer_all(state: DeviceState, row: dict[str, Any], threads: int) -> Answers:
    images, size = state.bundle.images(), state.bundle.recipe.batch_size
    sidecar, runner = load_engine(state.engine(row["name"]), threads, expected=state.expected(row))
    parts: list[Answers] = []
    with runner:
        for start in track(range(0, len(images), size), f"evaluating {row['name']}"):
            logits = infer_in_chunks(runner, np.asarray(images[start : start + size]), sidecar.max_batch)
            parts += [state.bundle.task.answers(part) for part in logits]
    return np.concatenate(parts)


def compare_preprocessing(bundle: Bundle) -> dict[str, float]:
    """The difference between this machine's preprocessing of the sample files and the host's, in levels of 255: the largest
    mean of an image, and the largest of all.

    RuntimeError where it is more than rounding: the evaluation, on the host's pixels, would not hold for `predict`.
    """
    images = bundle.images()
    differences = [
        np.abs(preprocess(load_image(bundle.folder / sample.file), bundle.spec).astype(int) - images[sample.row])
        for sample in bundle.recipe.samples
    ]
    mean = max(float(difference.mean()) for difference in differences)
    if mean > _MAX_MEAN_LEVELS:
        raise RuntimeError(
            f"OpenCV {opencv_version()} on this machine preprocesses images differently from the host: they differ by up to "
            f"{mean:.1f} of 255 levels on average over an image (allowed {_MAX_MEAN_LEVELS:g})"
        )
    return {"mean_levels": mean, "max_levels": float(max(difference.max() for difference in differences))}


def benchmark(state: DeviceState, threads: int) -> None:
    """Write `benchmark.json`, measured as on the host, with energy and power mode where the machine reports them."""
    timing, rows = replace(state.bundle.recipe.timing, threads=threads), state.finished_rows()
    with ExitStack() as stack:
        found = Candidates()
        for row in rows:
            if row["status"] != "built":
                continue
            name, run = row["name"], RunOptions(timing.cuda_graph, timing.spin)
            with noted(name, found.missing):
                sidecar, runner = load_engine(state.engine(name), threads, run, state.expected(row))
                found.add(name, state.engine(name), sidecar.max_batch, runner, stack)
        if not found.runners:
            raise none_measured(found.missing)
        images = _some_images(state.bundle.images(), max(timing.batch_sizes))
        measured = benchmark_engines(found, images, timing, rows)
    power = measured["machine"]["power"]["power_mode"]
    measured["mode"] |= {"power_mode": power} if power else {}
    write_json(
        state.path(BENCHMARK_JSON),
        measured | {"engines": state.engines_key(), "load_average": os.getloadavg()[0]},
    )


def _some_images(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images[np.arange(count) % len(images)])


def report(state: DeviceState) -> dict[str, Any]:
    """Write `report/report.json` and `report/report.md`, and return the report."""
    evaluation = state.measured(EVALUATION_JSON, "evaluate")
    speed = state.measured(BENCHMARK_JSON, "benchmark")
    recipe = state.bundle.recipe
    joined = join_report(
        run=recipe.run, model=recipe.model, evaluation=evaluation, benchmark=speed,
        preprocess_sha256=state.bundle.spec.sha256(), gate_share=recipe.gate_share,
    )  # fmt: skip
    page = markdown_page(joined, evaluation["reference"], speed["mode"], DEVICE_COMMANDS, picture=None)
    state.path("report/report.md").write_text(page, encoding="utf-8")
    write_json(state.path("report/report.json"), joined)
    return joined
