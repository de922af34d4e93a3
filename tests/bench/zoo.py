"""`make zoo`: forty networks of timm through the whole chain on a few embedded photographs, a row each.

Each is trained for a few steps, which is enough for logits that mean something and far too little for accuracy: the columns
that count are how it was exported, its INT8 layers, the agreement with FP32 and the speed. A finished row is kept in
results/zoo.json, and docs/networks.md is written anew with it; started again, the command goes on with the next network, and
one that was interrupted goes on with its next stage. What fails is a row with the reason.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bench.kept_results import keep, read_kept, write_page
from bench.zoo_networks import FORTY, SIZES
from bench.zoo_table import table

import models  # noqa: F401  (registers ours)
from pipeline.data.dataset import open_dataset
from pipeline.machine.describe import cpu_name
from pipeline.parts.data import DataPart
from pipeline.parts.model import ModelPart
from pipeline.training.network import create_network

ENGINES = ("onnxruntime", "openvino")
MARKERS = ("<!-- zoo -->", "<!-- /zoo -->")
TARGET = "sm86"
CLASSES, TRAIN, VAL = 10, 15, 20  # images of each class
TRAINING_SECONDS = 60  # of each network, where two epochs do not take longer
STEP = 5  # images of the step that is timed
FEWEST_EPOCHS, MOST_EPOCHS = 2, 8
FINISHED = (0, 3)  # 3: no engine passed the gate, which hours of training would mend
MINUTES = 40  # for one network; the largest take ten on two cores


def main() -> None:
    """Run the chain for each network that has no row yet."""
    options = arguments()
    images = few_images(options.folder / "images")
    failed = []
    for number, name in enumerate(options.networks or FORTY, start=1):
        row = read_kept(options.results).get(name)
        if row is None or options.again or ("failed" in row and options.retry):
            print(f"{number:>3}  {name} …", flush=True)
            row = one_network(name, images, options)
            keep(options.results, name, row)
            write_page(options.page, [table(read_kept(options.results))], *MARKERS)
        print(f"{number:>3}  {name}: {in_words(row)}", flush=True)
        failed += [name] if "failed" in row else []
    if failed:
        sys.exit(f"did not finish: {', '.join(failed)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="names of timm or of t2t-edge models; default: the forty")
    parser.add_argument("--size", type=int, help="pixels per side; default: each network's own")
    parser.add_argument("--epochs", type=int, help="default: what a minute allows here, 2 to 8")
    parser.add_argument("--again", action="store_true", help="run networks that have a row, too")
    parser.add_argument("--retry", action="store_true", help="run networks that failed once more")
    parser.add_argument(
        "--keep", action="store_true", help="keep the runs (0.4 GB each): --again then does what has changed"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/zoo"), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=Path("results/zoo.json"), help="default: %(default)s")
    parser.add_argument("--page", type=Path, default=Path("docs/networks.md"), help="default: %(default)s")
    return parser.parse_args()


def few_images(root: Path) -> Path:
    """A folder with the first images of each class of the embedded set."""
    splits = open_dataset(DataPart(name="demo", root=Path("data/fashion-mnist")))
    for split, count in zip(splits, (TRAIN, VAL), strict=True):
        for label, name in enumerate(split.classes):
            folder = root / split.root.name / name
            folder.mkdir(parents=True, exist_ok=True)
            chosen = [path for path, of in zip(split.paths, split.labels, strict=True) if of == label]
            for path in chosen[:count]:
                shutil.copyfile(path, folder / path.name)
    return root


def one_network(name: str, images: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the chain in a process of its own; the row. The run's folder, which may have a gigabyte, stays only if asked."""
    size = options.size or SIZES.get(name) or own_size(name)
    epochs = options.epochs or affordable_epochs(name, size)
    recipe, run = options.folder / f"{name}.yaml", options.folder / name
    recipe.write_text(yaml.safe_dump(recipe_values(name, images, size, epochs)), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        "--recipe",
        str(recipe),
        "--runs",
        str(options.folder),
        "--run",
        name,
    ]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
        status, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        status, said = -1, f"error: not finished after {MINUTES} minutes"
    row: dict[str, Any] = {"settings": settings(size, epochs), "seconds": round(time.monotonic() - started)}
    if status not in FINISHED:
        return row | {"failed": last_error(said) or f"exit status {status}"}
    row |= read_run(run)
    if not options.keep:
        shutil.rmtree(run)
    return row


def own_size(name: str) -> int:
    """The side of a network's images; 224 where timm does not say."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return int(config.input_size[1]) if config is not None else 224


def affordable_epochs(name: str, size: int) -> int:
    """Small networks need more steps for logits that mean something, and most of them have time for them.

    Timed, because products do not tell: depthwise convolutions train many times slower than theirs.
    """
    network = create_network(ModelPart(name=name, image_size=size), CLASSES).train()
    images = torch.zeros(STEP, 3, size, size)
    for _ in range(2):  # the first warms up
        started = time.monotonic()
        network(images).sum().backward()
    epoch = (time.monotonic() - started) * CLASSES * TRAIN / STEP
    return int(min(MOST_EPOCHS, max(FEWEST_EPOCHS, TRAINING_SECONDS / epoch)))


def settings(size: int, epochs: int) -> dict[str, Any]:
    tools = {name: metadata.version(name) for name in ("timm", "torch", "onnxruntime", "openvino")}
    return {"cpu": cpu_name(), "size": size, "epochs": epochs, "versions": tools}


def recipe_values(name: str, images: Path, size: int, epochs: int) -> dict[str, Any]:
    """A short training, INT8 on both CPU engines, and for a GPU that need not be here."""
    cpu = [{"backend": backend, "precisions": ["fp32", "int8"]} for backend in ENGINES]
    return {
        "schema": 1,
        "data": {"name": "few photographs", "root": str(images)},
        "model": {"name": name, "image_size": size},
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.286] * 3, "std": [0.353] * 3},
        "train": {
            "epochs": epochs, "batch_size": 10, "lr": 5e-4, "warmup_epochs": min(1, epochs - 1), "mixup": 0, "cutmix": 0,
            "auto_augment": None, "random_erasing": 0, "random_resize_scale": [0.8, 1.0], "drop_path": 0, "ema_decay": 0,
            "clip_grad": 1.0, "workers": 0, "eval_every": epochs,
        },
        "calibrate": {"images": 50},
        "build": [*cpu, {"backend": "tensorrt_rtx", "precisions": ["int8-fp16"], "targets": [TARGET]}],
        "evaluate": {"batch_size": 20},
        "benchmark": {"batch_sizes": [1], "warmup": 2, "rounds": 5, "calls": 3, "threads": os.cpu_count() or 1},
    }  # fmt: skip


def last_error(said: str) -> str:
    """The message that a command ended with, in one line."""
    _, found, message = said.rpartition("error: ")
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", message).split())[:300] if found else ""


def read_run(run: Path) -> dict[str, Any]:
    """A row's values from a finished run."""
    report = json.loads((run / "report/report.json").read_text(encoding="utf-8"))
    variants = {entry["name"]: entry for entry in report["variants"]}
    rtx = variants[f"tensorrt_rtx-int8-fp16-{TARGET}"]
    engines = {name: on_engine(variants[f"{name}-fp32"], variants[f"{name}-int8"]) for name in ENGINES}
    notes = json.loads((run / "export/manifest.json").read_text(encoding="utf-8"))["notes"]
    row = {
        "way": notes["way"],
        "engines": engines,
        "rtx": rtx["layers"],
        "rtx_reason": "" if rtx["sha256"] else rtx["reason"],
    }
    wrong = [
        f"{name}: {of['reason']}" for name, of in engines.items() if of["status"] == "error" or of["agreement"] is None
    ]
    return row | ({"failed": "; ".join(wrong)} if wrong else {})


def on_engine(fp32: dict[str, Any], int8: dict[str, Any]) -> dict[str, Any]:
    """INT8 beside FP32 on one engine; the speed is FP32's median time over INT8's, one image."""
    both = fp32["latency_ms"] and int8["latency_ms"]
    speed = round(fp32["latency_ms"]["p50"] / int8["latency_ms"]["p50"], 2) if both else None
    keys = ("status", "reason", "agreement", "layers")
    return {"fp32_agreement": fp32["agreement"], "speed": speed} | {key: int8[key] for key in keys}


def in_words(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    parts = [f"{name} {of['agreement']:.1f} %, {of['speed']}×" for name, of in row["engines"].items()]
    return f"{row['way']}; {'; '.join(parts)}; {row['seconds']} s"


if __name__ == "__main__":
    main()
