"""`make bench`: t2t_vit_14 at 224 px, batch 1: the literal-unfold export, ours, and ours in INT8, in one process.

Every engine takes its turn in every round; the printed ratios are medians of the rounds' ratios to the literal FP32.
Weights are random, images are the embedded photographs enlarged: latency does not depend on either.
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from literal_export import export_literal

import models  # noqa: F401  (registers the models)
from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend, openvino_backend
from export.engines.spec import graph_of
from export.onnx_export import INPUT, export_onnx
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import quantize_int8
from export.simplify import simplify_onnx
from pipeline.data.dataset import open_dataset
from pipeline.machine.describe import cpu_name
from pipeline.measure.warm_up import begin_turn
from pipeline.parts.data import DataPart

Call = Callable[[], object]


def main() -> None:
    """Export, quantize, load, then measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="t2t_vit_14")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        calls = prepare(options.model, options.size, options.threads, Path(scratch))
        rounds = measure(calls, options.rounds, options.calls)
    print_ratios(rounds, options)


def prepare(name: str, size: int, threads: int, folder: Path) -> dict[str, Call]:
    """A call to time for each engine."""
    spec = Preprocess(size, size, 0.9, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    train, _ = open_dataset(DataPart(name="fashion-mnist", root=Path("data/fashion-mnist")))
    step = max(1, len(train) // 32)
    images = load_batch(list(train.paths[::step])[:32], spec)
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=size, num_classes=10).eval()
    for label, export in (("literal", export_literal), ("ours", export_onnx)):
        export(model, spec, list(train.classes), folder / "raw.onnx")
        result = simplify_onnx(folder / "raw.onnx", folder / f"{label}.onnx", images[:2])
        print(f"{label}: {result.nodes_after['total']} nodes")
    calibration = CalibrationSet(images, np.zeros(len(images)))
    calls: dict[str, Call] = {}
    for label in ("literal", "ours", "int8"):
        for backend, module in (("openvino", openvino_backend), ("onnxruntime", onnxruntime_backend)):
            graph = folder / f"{graph_of(backend, label)}.onnx"
            if label == "int8":
                quantize_int8(folder / "ours.onnx", graph, calibration, dialect=DIALECTS[backend])
            engine = module.build(graph, folder / f"{backend}-{label}{Path(module.ENGINE_NAME).suffix}")
            calls[f"{backend} {label}"] = functools.partial(
                module.load(engine.path, threads).infer, {INPUT: images[:1]}
            )
    return calls


def measure(calls: dict[str, Call], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Median seconds of `repeats` calls for every round; all take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):  # round 0 is the warm-up
        for name, call in calls.items():
            begin_turn(call)
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            if index:
                seconds[name].append(float(np.median(times)))
    return seconds


def print_ratios(rounds: dict[str, list[float]], options: argparse.Namespace) -> None:
    """A table, and the same as one line of JSON."""
    print(cpu_name())
    print(
        f"{options.model} @{options.size} px, batch 1, {options.threads} threads, {options.rounds} interleaved rounds"
    )
    print(f"{'engine':<24} {'median ms':>10} {'speed against literal FP32 (median, quartiles)':>48}")
    result = {}
    for name, seconds in rounds.items():
        baseline = np.asarray(rounds[f"{name.split()[0]} literal"])
        low, median, high = np.percentile(baseline / np.asarray(seconds), (25, 50, 75))
        result[name] = {"ms": round(1e3 * float(np.median(seconds)), 2), "speed": round(float(median), 3)}
        print(f"{name:<24} {1e3 * np.median(seconds):>10.2f} {median:>28.2f}x  ({low:.2f} to {high:.2f})")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
