"""Networks on ExecuTorch's CPU backend here: what XNNPACK takes, how near the logits are to the graph's, and how fast it is.

`python tests/bench/phones.py t2t_vit_7 resnet50`, names of timm, `NAME:SIDE` for another size than 224 px; without any, those of
docs/phones.md. Random weights, one image, one thread; engines take turns. A network takes one to three minutes.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np
import timm
import torch
from bench.peers.measure import take_turns
from engine_graphs import IMAGENET, photographs

from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.engines.executorch import backend
from export.faults.rounding import snr_db
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import quantize_int8
from export.runner import Runner
from export.simplify import simplify_onnx

SIDE, IMAGES, CLASSES = 224, 4, 10
ROUNDS, CALLS = 12, 5
NETWORKS = ("t2t_vit_7", "t2t_vit_14", "deit_small_patch16_224", "resnet50", "mobilenetv2_100", "mobilenetv3_large_100")
HEADINGS = (
    "network", "precision", "products INT8 / FP32", "portable kernels", "logits against the graph's, dB", "MB", "built in s",
    "ms", "× FP32", "ONNX Runtime FP32, ms",
)  # fmt: skip


def main(names: list[str]) -> None:
    import models  # noqa: F401  (registers the models)

    torch.set_num_threads(1)
    print(f"| {' | '.join(HEADINGS)} |")
    print(f"|{'---|' * len(HEADINGS)}")
    for name in names:
        network, _, side = name.partition(":")
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            compare(network, int(side or SIDE), Path(scratch), stack)


def compare(name: str, side: int, folder: Path, stack: ExitStack) -> None:
    """Print a row for each precision."""
    calibration = photographs(Path("data/fashion-mnist.npz"), side, 32)
    write_graphs(name, side, folder, calibration)
    images = calibration.first(IMAGES)
    runners: dict[str, Runner] = {}
    cells: dict[str, list[str]] = {}
    for precision in ("fp32", "int8"):
        graph = folder / f"{precision}.onnx"
        started = time.perf_counter()
        engine = backend.build(graph, folder / f"{precision}.pte")
        seconds = time.perf_counter() - started
        runners[precision] = stack.enter_context(backend.load(engine.path, 1))
        with onnxruntime_backend.load(graph, 1, literal=True) as runner:
            written = np.asarray(runner.infer({INPUT: images})[OUTPUT])
        near = snr_db(np.asarray(runners[precision].infer({INPUT: images})[OUTPUT]), written)
        assert engine.layers is not None
        portable = ", ".join(f"{count} {operator}" for operator, count in engine.notes["portable"].items())
        cells[precision] = [
            f"{engine.layers['int8']} / {engine.layers['fp32']}", portable, f"{near:.1f}",
            f"{engine.path.stat().st_size / 1e6:.1f}", f"{seconds:.0f}",
        ]  # fmt: skip
    runners["onnxruntime"] = stack.enter_context(onnxruntime_backend.load(folder / "fp32.onnx", 1))
    times = take_turns(runners, images[:1], ROUNDS, CALLS)
    for precision, found in cells.items():
        ratios = [one / two for one, two in zip(times["fp32"], times[precision], strict=True)]
        speed = [
            f"{1e3 * np.median(times[precision]):.1f}",
            f"{np.median(ratios):.2f}",
            f"{1e3 * np.median(times['onnxruntime']):.1f}",
        ]
        print(f"| {' | '.join([name, precision, *found, *speed])} |", flush=True)


def write_graphs(name: str, side: int, folder: Path, calibration: CalibrationSet) -> None:
    """`fp32.onnx` and `int8.onnx`, as the stages write them by default."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES).eval()
    spec = Preprocess(side, side, 0.9, "bicubic", *IMAGENET)
    export_onnx(model, spec, [str(label) for label in range(CLASSES)], folder / "fp32.onnx")
    simplify_onnx(folder / "fp32.onnx", folder / "fp32.onnx", calibration.first(2))
    quantize_int8(folder / "fp32.onnx", folder / "int8.onnx", calibration, dialect=DIALECTS["executorch"])


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
