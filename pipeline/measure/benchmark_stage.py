"""The benchmark stage: latency, throughput, memory and energy of every engine that runs on this machine.

Latency is the wall-clock time of one whole call, for every backend alike. Engines take turns, so that a machine that slows
down slows all of them. For an engine on a GPU, the GPU's own times of the same calls are recorded too.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import load_batch
from export.engines.engine import load_engine
from export.engines.pytorch.runner import TorchRunner
from export.engines.tensorrt.runner import TensorRtRunner
from export.runner import INPUT, DeviceTimes, Runner, RunOptions, fixed_batch
from pipeline.artifact import Artifact
from pipeline.console.progress import track
from pipeline.data.batches import evaluation_split
from pipeline.machine.describe import describe_machine
from pipeline.machine.peak_memory import engine_memory
from pipeline.machine.power import EnergyMeter, describe_power
from pipeline.measure.engine_failure import Missing, close_engine, noted
from pipeline.measure.warm_up import begin_turn, warm_up

if TYPE_CHECKING:  # the device side has no pydantic
    from pipeline.recipe import Recipe

_PERCENTILES = (50, 90, 99)
_LEAST_CALLS = 3  # in a round: the median of fewer is any one that was disturbed
_WARM_UP = 0.2  # of the time for timed calls: no longer than that is an engine warmed up


@dataclass
class Candidates:
    """The engines that run here: their runners, largest batches and folders, by name; and why the others do not run."""

    runners: dict[str, Runner] = field(default_factory=dict)
    limits: dict[str, int | None] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    missing: Missing = field(default_factory=dict)

    def add(self, name: str, folder: Path, max_batch: int | None, runner: Runner, stack: ExitStack) -> None:
        """Add an engine that was loaded; `stack` will free it."""
        stack.callback(close_engine, name, runner, self.missing)
        self.runners[name], self.limits[name], self.folders[name] = runner, max_batch, folder


class Timing(Protocol):
    """How to measure: the recipe's `benchmark`, or a bundle's copy of it."""

    @property
    def batch_sizes(self) -> tuple[int, ...]: ...
    @property
    def warmup(self) -> int: ...
    @property
    def warmup_ms(self) -> int: ...
    @property
    def energy_seconds(self) -> float: ...
    @property
    def rounds(self) -> int: ...
    @property
    def calls(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def threads(self) -> int: ...


def run(recipe: "Recipe", inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `benchmark.json` into `folder`: for each engine latency at batch 1, images per second at each batch size,
    memory, energy, and on a GPU whether it ran as a CUDA graph."""
    part = recipe.benchmark
    with ExitStack() as stack:
        found = Candidates()
        spec, classes = None, tuple[str, ...]()
        for row in inputs["build"].notes["engines"]:
            if row["status"] != "built":
                continue
            engine, name = inputs["build"].folder / row["name"], row["name"]
            with noted(name, found.missing):
                sidecar, runner = load_engine(engine, part.threads, RunOptions(part.cuda_graph, part.spin))
                found.add(name, engine, sidecar.max_batch, runner, stack)
                spec, classes = sidecar.preprocess_spec(), sidecar.classes
        if spec is None:
            raise none_measured(found.missing)
        split = evaluation_split(recipe, classes)
        images = load_batch([split.paths[index % len(split)] for index in range(max(part.batch_sizes))], spec)
        _say_fixed(found, part)
        benchmark = benchmark_engines(found, images, part, inputs["build"].notes["engines"])
    (folder / "benchmark.json").write_text(json.dumps(benchmark, indent=1), encoding="utf-8")
    return {"load_average": os.getloadavg()[0]}


def _say_fixed(found: Candidates, part: Timing) -> None:
    """Print what batch sizes mean for engines with a fixed batch."""
    fixed = {name: size for name, runner in found.runners.items() if (size := fixed_batch(runner.inputs)) is not None}
    for size in sorted(set(fixed.values())):
        others = ", ".join(str(asked) for asked in part.batch_sizes if asked != size)
        backends = ", ".join(dict.fromkeys(name.partition("-")[0] for name in fixed if fixed[name] == size))
        if others:
            print(
                f"           engines of {backends} take {size} image(s) at a time here, so batches of {others} are filled up or "
                f"run in several: for their own speed set benchmark.batch_sizes: [{size}]"
            )


def benchmark_engines(
    found: Candidates, images: NDArray[np.uint8], part: Timing, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The content of benchmark.json. `images` are as many as the largest batch, `rows` the build stage's engines.

    An engine that fails is left out, with its reason in `failed`; RuntimeError where none is left.
    """
    with ExitStack() as stack:
        on_device: dict[str, list[DeviceTimes]] = {}
        seconds = measure(found.runners, images, part, found.limits, on_device, found.missing)
        meter = EnergyMeter(stack)
        variants: dict[str, Any] = {}
        for name, times in seconds.items():
            with noted(name, found.missing):
                variants[name] = _summary(times, on_device.get(name, [])) | _costs(name, found, images, part, meter)
        if not variants:
            raise none_measured(found.missing)
        # engines that are only unavailable are named by the evaluate stage
        failed = {name: why.reason for name, why in found.missing.items() if why.status == "error"}
        for name, reason in failed.items():
            print(f"{name}: not measured: {reason}", flush=True)
        return {
            "machine": describe_machine(rows) | {"power": describe_power(meter.nvml)},
            "mode": _mode(part),
            "variants": variants,
            "failed": failed,
        }


def none_measured(missing: Missing) -> RuntimeError:
    """The error for when no engine is left to measure."""
    reasons = "; ".join(f"{name}: {why.reason}" for name, why in missing.items())
    return RuntimeError(f"no engine can be measured on this machine: {reasons or 'none was built'}")


def measure(
    runners: Mapping[str, Runner], images: NDArray[np.uint8], part: Timing, limits: Mapping[str, int | None],
    on_device: dict[str, list[DeviceTimes]] | None = None, missing: Missing | None = None,
) -> dict[str, dict[int, list[float]]]:  # fmt: skip
    """Seconds of every timed call, by engine and batch size; engines and sizes take turns in every round, with equally many calls
    in each, fewer than the recipe's for a slow one.

    Where `on_device` is given, the GPU's times of the same calls at batch 1 are added to it. Where `missing` is given, an
    engine that fails is left out and its reason added there; otherwise its error is raised.
    """
    lost = {} if missing is None else missing
    turns = [
        (name, size)
        for size in part.batch_sizes
        for name in runners
        if limits[name] is None or size <= (limits[name] or 0)
    ]
    seconds: dict[str, dict[int, list[float]]] = {name: {} for name in runners}
    calls: dict[tuple[str, int], int] = {}
    for name, size in turns:
        if name not in lost:
            with noted(name, missing):
                infer = partial(runners[name].infer, {INPUT: images[:size]})
                quick = warm_up(infer, part.warmup, part.warmup_ms, 1e3 * _WARM_UP * part.seconds)
                fitting = round(part.seconds / (part.rounds * max(quick, 1e-9)))
                calls[name, size] = min(part.calls, max(_LEAST_CALLS, fitting))
                seconds[name][size] = []
    for _ in track(range(part.rounds), "benchmarking"):
        for name, size in turns:
            if name not in lost:
                with noted(name, missing):
                    begin_turn(partial(runners[name].infer, {INPUT: images[:size]}))
                    kept = on_device.setdefault(name, []) if on_device is not None and size == 1 else None
                    seconds[name][size] += _time_calls(runners[name], images[:size], calls[name, size], kept)
    return {name: times for name, times in seconds.items() if name not in lost}


def _time_calls(
    runner: Runner, images: NDArray[np.uint8], calls: int, kept: list[DeviceTimes] | None = None
) -> list[float]:
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        runner.infer({INPUT: images})
        seconds.append(time.perf_counter() - start)
        if kept is not None and isinstance(runner, TensorRtRunner):
            kept.append(runner.device_times())
    return seconds


def _mode(part: Timing) -> dict[str, Any]:
    """How speed was measured, for the report."""
    return {
        "threads": part.threads, "warmup": part.warmup, "rounds": part.rounds, "calls": part.calls,
        "timed_seconds_at_most": part.seconds, "warmup_ms_at_least": part.warmup_ms,
        "latency": "wall clock of one call, copies to and from a GPU in it",
    }  # fmt: skip


def _summary(times: dict[int, list[float]], on_device: list[DeviceTimes]) -> dict[str, Any]:
    latency = _percentiles([1e3 * seconds for seconds in times[1]]) if 1 in times else None
    rates = {str(size): size / float(np.median(values)) for size, values in times.items()}
    spread = {str(size): np.percentile(values, range(101)) * 1e3 for size, values in times.items()}
    return {
        "latency_ms": latency, "images_per_s": rates, "device_latency_ms": _device_latency(on_device),
        "percentiles_ms": {size: [float(f"{value:.5g}") for value in values] for size, values in spread.items()},
    }  # fmt: skip


def _device_latency(times: list[DeviceTimes]) -> dict[str, float] | None:
    """As trtexec reports it: copy in, compute and copy out, timed by CUDA events; each of the three as its median."""
    if not times:
        return None
    parts = {name: float(np.median([asdict(one)[name] for one in times])) for name in asdict(times[0])}
    return _percentiles([one.total for one in times]) | parts


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{percent}": float(np.percentile(values, percent)) for percent in _PERCENTILES}


def _costs(name: str, found: Candidates, images: NDArray[np.uint8], part: Timing, meter: EnergyMeter) -> dict[str, Any]:
    """Memory at the largest batch size, energy of an image at each, and how a GPU ran the engine."""
    runner, limit = found.runners[name], found.limits[name]
    sizes = [size for size in part.batch_sizes if limit is None or size <= limit]
    on_gpu = isinstance(runner, TensorRtRunner) or (isinstance(runner, TorchRunner) and runner.on_gpu)
    energy = {
        str(size): meter.measure(runner, images[:size], part.energy_seconds, on_gpu=on_gpu)
        for size in sizes if part.energy_seconds
    }  # fmt: skip
    return {
        "peak_memory_bytes": engine_memory(found.folders[name], runner, images[: max(sizes)], part.threads) if sizes else None,
        "energy_mj": energy["1"]["mj_per_image"] if "1" in energy else None,
        "energy": energy,
        "run_mode": asdict(runner.mode) if isinstance(runner, TensorRtRunner) else None,
    }  # fmt: skip
