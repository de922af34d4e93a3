"""Speed and accuracy of all graphs of a network on one backend, in one process, taking turns."""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench.peers.graphs import LABELS, LITERAL, OURS, OURS_BF16, OURS_FP32, write_graph
from bench.peers.networks import Network, write_graphs
from numpy.typing import NDArray

from calib.errors import InputError
from calib.precision.smoothing import logits_distance
from export.engines import onnxruntime_backend, openvino_backend
from export.onnx_export import INPUT, OUTPUT
from export.runner import Engine, Runner, Unavailable
from pipeline.measure.warm_up import begin_turn
from pipeline.tasks.statistics import accuracy, agreement

BACKENDS = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
Row = dict[str, Any]
Seconds = dict[str, list[float]]


def compare(
    network: Network,
    batches: list[int],
    rounds: int,
    calls: int,
    threads: int,
    folder: Path,
    say: Callable[[str], None],
) -> dict[str, dict[str, Row]]:
    """Rows by backend and label. A row that cannot be made has `unavailable` or `error`, with the reason."""
    fp32 = write_graphs(network, folder)
    reference = network.logits()
    found: dict[str, dict[str, Row]] = {}
    for backend, title in BACKENDS.items():
        rows: dict[str, Row] = {}
        with contextlib.ExitStack() as stack:
            runners: dict[str, Runner] = {}
            for label in LABELS:
                say(f"{title}: {label}")
                rows[label], runner = prepare(label, backend, network, fp32, reference, threads, folder)
                if runner is not None:
                    runners[label] = stack.enter_context(runner)
            for batch in batches:
                say(f"{title}: {len(runners)} graphs in turns, batch {batch}")
                images = np.resize(network.images, (batch, *network.images.shape[1:]))
                for label, speed in speeds(take_turns(runners, images, rounds, calls)).items():
                    rows[label].setdefault("speeds", {})[str(batch)] = speed
        found[backend] = rows
    return found


def prepare(
    label: str, backend: str, network: Network, fp32: dict[str, Path], reference: NDArray[np.float32], threads: int,
    folder: Path,
) -> tuple[Row, Runner | None]:  # fmt: skip
    """A row with its accuracy, and the runner to time; None where there is none."""
    try:
        graph = write_graph(label, backend, network, fp32, folder)
        engine = folder / f"{backend}-{label.replace(' ', '-')}"
        built, runner = open_graph(graph, backend, engine, threads, bf16=label == OURS_BF16)
        logits = infer(runner, network.images)
    except Unavailable as error:
        return {"unavailable": str(error)}, None
    except (InputError, RuntimeError) as error:
        return {"error": " ".join(str(error).split())[:240]}, None
    return {"layers": built.layers} | closeness(network, reference, logits), runner


def open_graph(
    graph: Path, backend: str, engine: Path, threads: int, *, bf16: bool = False
) -> tuple[Engine, Runner]:  # fmt: skip
    """A graph as a backend's engine beside the path `engine`. Unavailable or RuntimeError where there is none."""
    if backend == "openvino":
        built = openvino_backend.build(graph, engine.with_suffix(".xml"), bf16=bf16)
        return built, openvino_backend.load(built.path, threads, bf16=bf16)
    built = onnxruntime_backend.build(graph, engine.with_suffix(".onnx"))
    return built, onnxruntime_backend.load(built.path, threads)


def infer(runner: Runner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, classes), in batches of 16."""
    return np.concatenate([runner.infer({INPUT: images[i : i + 16]})[OUTPUT] for i in range(0, len(images), 16)])


def closeness(network: Network, reference: NDArray[np.float32], logits: NDArray[np.float32]) -> Row:
    """Against PyTorch FP32: SNR of the logits; of trained networks agreement; where there are labels top-1 of both."""
    snr = logits_distance(reference, logits).snr_db
    row: Row = {"finite": bool(np.isfinite(logits).all()), "snr_db": round(snr, 2) if np.isfinite(snr) else None}
    if network.trained:
        row["agreement"] = round(agreement(logits, reference), 3)
    if network.labels is not None:
        row["top1"] = round(accuracy(logits, network.labels), 3)
        row["fp32_top1"] = round(accuracy(reference, network.labels), 3)
    return row


def take_turns(runners: dict[str, Runner], images: NDArray[np.uint8], rounds: int, calls: int) -> Seconds:
    """Median seconds of `calls` for each round and runner, after untimed ones; a whole round before the first warms up."""
    seconds: Seconds = {label: [] for label in runners}
    for index in range(rounds + 1):
        for label, runner in runners.items():
            begin_turn(partial(runner.infer, {INPUT: images}))
            times = []
            for _ in range(calls):
                start = time.perf_counter()
                runner.infer({INPUT: images})
                times.append(time.perf_counter() - start)
            if index:
                seconds[label].append(float(np.median(times)))
    return seconds


def speeds(seconds: Seconds) -> dict[str, dict[str, Any]]:
    """Of each row median milliseconds, and as quartiles over rounds its speed against FP32 and against our INT8.

    FP32 is the literal form's, ours where the network has no such form; above 1 is faster. None where that was not measured.
    """
    baseline = seconds.get(LITERAL, seconds.get(OURS_FP32))
    return {
        label: {
            "ms": round(1e3 * float(np.median(times)), 3),
            "to_fp32": _quartiles(baseline, times),
            "to_ours": _quartiles(seconds.get(OURS), times),
        }
        for label, times in seconds.items()
    }


def _quartiles(of: list[float] | None, over: list[float]) -> list[float] | None:
    if of is None:
        return None
    return [round(float(value), 3) for value in np.percentile(np.asarray(of) / np.asarray(over), (25, 50, 75))]
