"""`make bench`, second half: how much of its raw throughput an engine keeps in `predict` on a folder of 2,000 JPEGs.

Raw is the engine alone on one preprocessed batch; predict reads, decodes and preprocesses 500 × 375 px JPEGs made of the
embedded photographs. Both take turns, a tenth of the images each, so that a busy machine slows both down: the printed
ratio is the median of ten. Where engine and threads share the same cores, the ratio has a bound, which is printed beside
it: the cores' time for an image without and with what preparing it takes. Weights are random, since speed does not depend
on them, unless --run names a finished run.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import timm
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import models  # noqa: F401  (registers the models)
from calib.preprocess import Preprocess, load_batch
from export.engines.engine import build_engine
from export.engines.spec import EngineSpec
from export.onnx_export import export_onnx
from pipeline.data.dataset import open_dataset
from pipeline.machine.describe import cpu_name
from pipeline.parts.data import DataPart
from pipeline.predict.predict import INPUT, Predictor

ROUNDS = 10
WIDTH, HEIGHT = 500, 375  # pixels, a usual photograph of ImageNet


def main() -> None:
    """Make images and an engine, then measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--model", nargs="+", default=["t2t_vit_7", "t2t_vit_14"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--run", type=Path, help="a finished run, whose recommended engine is measured instead")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print(cpu_name())
    with tempfile.TemporaryDirectory() as scratch:
        parts = write_jpegs(options.images, Path(scratch) / "jpegs")
        for name in [str(options.run)] if options.run else options.model:
            folder = options.run or make_engine(name, options, Path(scratch) / name)
            with Predictor(folder, batch=options.batch, threads=options.threads) as predictor:
                rows = [measure(predictor, part, options.batch) for part in parts]
                decode = decode_rate(parts[0], predictor)
            print_rates(name, np.asarray(rows[1:]), decode, options)  # the first is the warm-up


def make_engine(name: str, options: argparse.Namespace, folder: Path) -> Path:
    """An FP32 engine of a model with random weights."""
    folder.mkdir()
    size = options.size
    spec = Preprocess(size, size, 0.9, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=size, num_classes=10).eval()
    classes = [f"class_{index}" for index in range(10)]
    export_onnx(model, spec, classes, folder / "fp32.onnx")
    build_engine(
        EngineSpec(options.backend, "fp32", None, (1, 8, 8)), folder / "fp32.onnx", folder / "engine", spec, classes
    )
    return folder / "engine"


def write_jpegs(count: int, folder: Path) -> list[Path]:
    """`count` JPEGs in equal parts, a folder each: photographs enlarged, with noise, as hard to decode as any."""
    train, _ = open_dataset(DataPart(name="fashion-mnist", root=Path("data/fashion-mnist")))
    step, generator = max(1, len(train) // count), np.random.default_rng(0)
    noise = generator.integers(0, 24, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    parts = [folder / f"{part:02d}" for part in range(ROUNDS + 1)]
    for part in parts:
        part.mkdir(parents=True)
    for index, path in enumerate(train.paths[::step][:count]):
        image = cv2.resize(cv2.imread(str(path)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(parts[index % len(parts)] / f"{index:06d}.jpg"), cv2.add(image, noise))
    return parts


def measure(predictor: Predictor, folder: Path, batch: int) -> tuple[float, float]:
    """Images a second of predict on `folder`, and of the engine alone on as many images."""
    start = time.perf_counter()
    count = sum(prediction.problem is None for prediction in predictor.stream(folder))
    streamed = count / (time.perf_counter() - start)
    images = load_batch(sorted(folder.iterdir())[:batch], predictor.preprocess)
    calls = max(1, count // batch)
    start = time.perf_counter()
    for _ in range(calls):
        predictor.runner.infer({INPUT: images})
    return streamed, calls * len(images) / (time.perf_counter() - start)


def decode_rate(folder: Path, predictor: Predictor) -> float:
    """Images a second that one thread reads, decodes and preprocesses."""
    paths = sorted(folder.iterdir())[:100]
    start = time.perf_counter()
    load_batch(paths, predictor.preprocess)
    return len(paths) / (time.perf_counter() - start)


def print_rates(name: str, rows: np.ndarray, decode: float, options: argparse.Namespace) -> None:
    """A line each, and the same as one line of JSON."""
    streamed, raw = np.median(rows, axis=0)
    low, ratio, high = np.percentile(rows[:, 0] / rows[:, 1], (25, 50, 75))
    bound = 1 / (1 + raw / (decode * (os.cpu_count() or 1)))
    engine = name if options.run else f"{options.backend} FP32 {name} @{options.size} px"
    print(
        f"{engine}, {options.images} JPEGs of {WIDTH} × {HEIGHT} px, batch {options.batch}, {options.threads} threads"
    )
    print(f"load average before and during (1 minute): {os.getloadavg()[0]:.1f}")
    print(f"engine alone        {raw:>8.1f} images/s")
    print(f"predict             {streamed:>8.1f} images/s, {ratio:.0%} of it (quartiles {low:.0%} to {high:.0%})")
    shared = options.run is None and options.backend in ("onnxruntime", "openvino")
    print(
        f"one thread prepares {decode:>8.1f} images/s"
        + (f": at most {bound:.0%} on these cores, which the engine uses, too" if shared else "")
    )
    figures = {"raw": raw, "predict": streamed, "ratio": ratio, "prepare": decode, "bound": bound}
    print(json.dumps({"engine": str(engine)} | {key: float(value) for key, value in figures.items()}), flush=True)


if __name__ == "__main__":
    main()
