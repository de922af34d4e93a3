"""Stage 8: latency and throughput of every engine that runs here, interleaved, so that drift hits all alike."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.images import read_split
from calib.preprocess import load_batch
from export.engines import load_engine
from export.onnx_export import INPUT
from export.runner import Runner, Unavailable
from pipeline.artifact import Artifact
from pipeline.machine import describe_machine
from pipeline.progress import track
from pipeline.recipe import BenchmarkPart, Recipe

_REWARM = 3  # untimed calls when an engine's turn comes, so that another engine's spinning threads do not count


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `benchmark.json` into `folder`: per engine latency at batch 1 and images per second at each batch size."""
    part = recipe.benchmark
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        limits: dict[str, int | None] = {}
        spec = None
        for row in inputs["build"].notes["engines"]:
            if row["status"] != "built":
                continue
            try:
                sidecar, runner = load_engine(inputs["build"].folder / row["name"], part.threads)
            except Unavailable:  # the evaluation says why, in the report
                continue
            runners[row["name"]] = stack.enter_context(runner)
            limits[row["name"]] = sidecar.max_batch
            spec = sidecar.preprocess_spec()
        if spec is None:
            raise RuntimeError("no engine of this run can run on this machine")
        split = read_split(recipe.data.root, "val")
        paths = [split.paths[index % len(split)] for index in range(max(part.batch_sizes))]
        seconds = measure(runners, load_batch(paths, spec), part, limits)
    benchmark = {
        "machine": describe_machine(inputs["build"].notes["engines"]),
        "mode": {"threads": part.threads, "warmup": part.warmup, "rounds": part.rounds, "calls": part.calls},
        "variants": {name: _summary(times) for name, times in seconds.items()},
    }  # fmt: skip
    (folder / "benchmark.json").write_text(json.dumps(benchmark, indent=1), encoding="utf-8")
    return {"load_average": os.getloadavg()[0]}


def measure(
    runners: Mapping[str, Runner], images: NDArray[np.uint8], part: BenchmarkPart, limits: Mapping[str, int | None]
) -> dict[str, dict[int, list[float]]]:
    """Seconds of every timed call, by engine and batch size; engines and sizes take turns in every round."""
    turns = [
        (name, size)
        for size in part.batch_sizes
        for name in runners
        if limits[name] is None or size <= (limits[name] or 0)
    ]
    seconds: dict[str, dict[int, list[float]]] = {name: {} for name in runners}
    for name, size in turns:
        _time_calls(runners[name], images[:size], part.warmup)
        seconds[name][size] = []
    for _ in track(range(part.rounds), "benchmarking"):
        for name, size in turns:
            _time_calls(runners[name], images[:size], _REWARM)
            seconds[name][size] += _time_calls(runners[name], images[:size], part.calls)
    return seconds


def _time_calls(runner: Runner, images: NDArray[np.uint8], calls: int) -> list[float]:
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        runner.infer({INPUT: images})
        seconds.append(time.perf_counter() - start)
    return seconds


def _summary(times: dict[int, list[float]]) -> dict[str, Any]:
    latency = None
    if 1 in times:
        latency = {f"p{percent}": float(np.percentile(times[1], percent)) * 1e3 for percent in (50, 90, 99)}
    rates = {str(size): size / float(np.median(values)) for size, values in times.items()}
    percentiles = {str(size): np.percentile(values, range(101)) * 1e3 for size, values in times.items()}
    return {
        "latency_ms": latency, "images_per_s": rates, "peak_memory_bytes": None, "energy_mj": None,
        "percentiles_ms": {size: [float(f"{value:.5g}") for value in values] for size, values in percentiles.items()},
    }  # fmt: skip
