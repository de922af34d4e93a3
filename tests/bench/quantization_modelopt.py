"""What nvidia-modelopt makes of a network's export, beside the rows of a sweep: no recipe can ask for that."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench.peers.graphs import OURS_FP32, installed, other_graph
from bench.peers.measure import infer, open_graph, speeds, take_turns
from bench.peers.networks import Network, open_network, write_graphs
from bench.peers.tools import MODELOPT, MODELOPT_MAX
from bench.quantization_rows import ENGINES
from numpy.typing import NDArray

from calib.errors import InputError
from pipeline.tasks.statistics import accuracy, agreement, correct_rows, paired_interval

LABELS = {"modelopt's defaults": MODELOPT, "modelopt, max": MODELOPT_MAX}
ROUNDS, CALLS = 15, 10


def measure_modelopt(run: Path, labels: list[str], images: int, threads: int) -> dict[str, dict[str, Any]]:
    """Rows of `labels` for the network of a run, with its calibration images; one that modelopt stops at says so.

    It is given the authors' form of T2T-ViT, of other networks the plain export; the speed is against our FP32.
    """
    network = open_network(str(run), images)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exports, reference = write_graphs(network, folder), network.logits()
        source = exports.get("literal", exports["ours"])
        for label in labels:
            try:
                graph = other_graph(LABELS[label], "onnxruntime", network, source, folder)
            except InputError as error:
                rows[label] = {"unavailable": f"modelopt: {error.what}"}
                continue
            rows[label] = {"settings": {"versions": installed()}} | {
                engine: _measure(network, reference, graph, exports["ours"], engine, threads) for engine in ENGINES
            }
    return rows


def _measure(
    network: Network, reference: NDArray[np.float32], graph: Path, fp32: Path, engine: str, threads: int
) -> dict[str, Any]:  # fmt: skip
    """Top-1, agreement, paired interval and speed on one engine; or why the graph does not run there."""
    assert network.labels is not None
    try:
        built, runner = open_graph(graph, engine, graph.with_name(f"{engine}-other"), threads)
        _, base = open_graph(fp32, engine, graph.with_name(f"{engine}-fp32"), threads)
        with runner, base:
            logits = infer(runner, network.images)
            times = take_turns({OURS_FP32: base, "other": runner}, network.images[:1], ROUNDS, CALLS)
    except RuntimeError as error:
        return {"error": " ".join(str(error).split())[:200]}
    speed = speeds(times)["other"]
    low, high = paired_interval(correct_rows(logits, network.labels), correct_rows(reference, network.labels))
    top1 = accuracy(logits, network.labels)
    return {
        "top1": top1, "delta": top1 - accuracy(reference, network.labels), "ci95": [low, high],
        "agreement": agreement(logits, reference), "finite": bool(np.isfinite(logits).all()), "latency_ms": speed["ms"],
        "speed": speed["to_fp32"][1], "layers": built.layers, "bytes": graph.stat().st_size,
    }  # fmt: skip
