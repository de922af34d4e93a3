"""Engines of PyTorch beside the other CPU backends': what Inductor takes in INT8, how near the logits are, how fast they are.

`python tests/bench/pytorch_engines.py --keep FOLDER t2t_vit_7 resnet18`, names of timm; without any, those of docs/inductor.md.
Random weights, 224 px, one image; engines take turns. What `FOLDER` has is not built again: a network takes two minutes.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np
from bench.peers.measure import take_turns
from engine_graphs import IMAGENET, build_network, count_classes, photographs

from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.engines.engine import build_engine, load_engine
from export.engines.spec import EngineSpec
from export.faults.rounding import snr_db
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import quantize_int8
from export.runner import Runner
from export.simplify import simplify_onnx

SIDE, IMAGES = 224, 4
ROUNDS, CALLS = 12, 4
NETWORKS = ("t2t_vit_7", "resnet18")
SPECS = [
    EngineSpec(backend, precision, None, (1, 1, 8))
    for backend, precision in (
        ("pytorch", "fp32"), ("inductor", "fp32"), ("inductor", "int8"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"),
        ("openvino", "fp32"), ("openvino", "int8"),
    )
]  # fmt: skip
BASELINE = "pytorch-fp32"
PREPROCESS = Preprocess(SIDE, SIDE, 0.9, "bicubic", *IMAGENET)


def main(names: list[str], threads: list[int], folder: Path) -> None:
    headings = ["network", "engine", "products INT8 / FP32", "logits against the graph's, dB", "MB"]
    headings += [f"{of} thread{'s'[: of > 1]}: ms, × {BASELINE}" for of in threads]
    print(f"| {' | '.join(headings)} |")
    print(f"|{'---|' * len(headings)}")
    for name in names:
        compare(name, threads, folder / name)


def compare(name: str, threads: list[int], folder: Path) -> None:
    """Print a row for each engine."""
    calibration = photographs(Path("data/fashion-mnist.npz"), SIDE, 32)
    if not (folder / "fp32.onnx").is_file():
        write_graphs(name, folder, calibration)
    built = {spec.name: kept(spec, folder, calibration.first(IMAGES)) for spec in SPECS}
    times = {of: measure([spec.name for spec in SPECS], folder, calibration.first(1), of) for of in threads}
    for spec in SPECS:
        told = built[spec.name]
        cells = [name, spec.name, f"{told['int8']} / {told['fp32']}", f"{told['snr']:.1f}", f"{told['mb']:.1f}"]
        for found in times.values():
            ratios = [one / two for one, two in zip(found[BASELINE], found[spec.name], strict=True)]
            cells.append(f"{1e3 * np.median(found[spec.name]):.1f}, {np.median(ratios):.2f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def write_graphs(name: str, folder: Path, calibration: CalibrationSet) -> None:
    """`fp32.onnx` and `int8-<backend>.onnx`, as the stages write them by default."""
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(build_network(name), PREPROCESS, labels(name), folder / "raw.onnx")
    simplify_onnx(folder / "raw.onnx", folder / "simple.onnx", calibration.first(2))
    for backend in {spec.backend for spec in SPECS if spec.precision == "int8"}:
        quantize_int8(folder / "simple.onnx", folder / f"int8-{backend}.onnx", calibration, dialect=DIALECTS[backend])
    (folder / "simple.onnx").replace(folder / "fp32.onnx")


def labels(name: str) -> list[str]:
    return [str(label) for label in range(count_classes(name))]


def kept(spec: EngineSpec, folder: Path, images: np.ndarray) -> dict[str, Any]:
    """What is told of an engine, which is built where `folder` has none."""
    told, graph = folder / f"{spec.name}.json", folder / f"{spec.graph}.onnx"
    if not told.is_file():
        sidecar = build_engine(spec, graph, folder / spec.name, PREPROCESS, labels(folder.name))
        with onnxruntime_backend.load(graph, 1, literal=True) as runner:
            written = np.asarray(runner.infer({INPUT: images})[OUTPUT])
        with load_engine(folder / spec.name, 1)[1] as runner:
            near = snr_db(written, np.asarray(runner.infer({INPUT: images})[OUTPUT]))
        size = sum((folder / spec.name / file).stat().st_size for file in sidecar.files) / 1e6
        layers = sidecar.layers or {"int8": 0, "fp32": 0}
        told.write_text(json.dumps({**layers, "snr": near, "mb": size}), encoding="utf-8")
    return dict(json.loads(told.read_text(encoding="utf-8")))


def measure(names: list[str], folder: Path, image: np.ndarray, threads: int) -> dict[str, list[float]]:
    """Seconds of a call in each round, the engines taking turns."""
    with ExitStack() as stack:
        runners: dict[str, Runner] = {
            name: stack.enter_context(load_engine(folder / name, threads)[1]) for name in names
        }
        return take_turns(runners, image, ROUNDS, CALLS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--keep", type=Path, help="a folder for graphs and engines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(options.networks, options.threads, options.keep or Path(scratch))
