"""INT8 of segmentation networks on both CPU engines beside FP32: products in INT8, and the CPU time of one image.

    python tests/bench/segmentation_int8.py vt_fpn_mini:96 vt_fpn_resnet18:224

Weights are random, BatchNorm has the statistics of the images, which are smoothed noise. Time is that of the process, on one
thread, in turns: the programs beside it disturb it less than a clock on the wall.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import models  # noqa: F401  (registers the models)
from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.engines.engine import build_engine, load_engine
from export.engines.spec import EngineSpec
from export.engines.tensorrt.options import BuildOptions
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import quantize_int8
from export.runner import Runner
from export.simplify import simplify_onnx
from pipeline.quantize.qat_stage import normalised

CLASSES = [f"class_{index}" for index in range(20)]
IMAGES, ROUNDS, CALLS = 32, 15, 5
Timed = dict[str, tuple[Runner, str]]


def make_images(size: int) -> NDArray[np.uint8]:
    """(32, size, size, 3)."""
    noise = np.random.default_rng(0).normal(size=(IMAGES, size, size, 3))
    smooth = gaussian_filter(noise, (0, size / 24, size / 24, 0))
    return np.asarray((128 + 50 * smooth / smooth.std()).clip(0, 255), dtype=np.uint8)


def make_network(name: str, size: int, images: NDArray[np.uint8], spec: Preprocess) -> nn.Module:
    """With random weights and BatchNorm's statistics of the images."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=len(CLASSES), img_size=size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        network.train()(normalised(images[:16], spec))
    return network.eval()


def build(source: Path, images: NDArray[np.uint8], spec: Preprocess, folder: Path) -> dict[str, Timed]:
    """Loaded engines by backend and precision, with what they compute in."""
    found: dict[str, Timed] = {}
    for backend in ("onnxruntime", "openvino"):
        int8 = folder / f"int8-{backend}.onnx"
        quantize_int8(source, int8, CalibrationSet(images, np.zeros(len(images), np.int64)), dialect=DIALECTS[backend])
        found[backend] = {}
        for precision, graph in (("fp32", source), ("int8", int8)):
            place = folder / f"{backend}-{precision}"
            build_engine(EngineSpec(backend, precision, None, (1, 1, 1), BuildOptions()), graph, place, spec, CLASSES)
            sidecar, runner = load_engine(place, 1)
            layers = sidecar.layers or {}
            found[backend][precision] = runner, f"{layers.get('int8', 0)} / {layers.get('fp32', 0)}"
    return found


def measure(engines: Timed, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Seconds of the process for one image, a median for each round."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(ROUNDS + 1):
        for name, (runner, _) in engines.items():
            calls = []
            for _ in range(CALLS):
                start = time.process_time()
                runner.infer({INPUT: image})[OUTPUT]
                calls.append(time.process_time() - start)
            if turn:
                times[name].append(float(np.median(calls)))
    return {name: np.asarray(values) for name, values in times.items()}


def main(wanted: list[str]) -> None:
    torch.set_num_threads(1)
    print("| network | px | engine | products INT8 / others | FP32 ms | INT8 ms | × FP32 (quartiles) |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for name, size in (text.split(":") for text in wanted):
        spec = Preprocess(int(size), int(size), 1.0, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        images = make_images(int(size))
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            export_onnx(make_network(name, int(size), images, spec), spec, CLASSES, folder / "raw.onnx")
            simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", images[:2])
            for backend, engines in build(folder / "fp32.onnx", images, spec, folder).items():
                times = measure(engines, images[:1])
                low, ratio, high = np.percentile(times["fp32"] / times["int8"], [25, 50, 75])
                fp32, int8 = (1e3 * float(np.median(times[precision])) for precision in ("fp32", "int8"))
                print(f"| {name} | {size} | {backend} | {engines['int8'][1]} | {fp32:.2f} | {int8:.2f} | "
                      f"{ratio:.2f} ({low:.2f}–{high:.2f}) |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(
        sys.argv[1:]
        or ["fpn_mini:96", "vt_fpn_mini:96", "vt_fpn_mini:224", "vt_fpn_resnet18:96", "vt_fpn_resnet18:224"]
    )
