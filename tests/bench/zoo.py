"""`make zoo`: forty networks of timm through the whole chain on a few embedded photographs, a row each.

Each is trained for a few steps, which is enough for logits that mean something and far too little for accuracy: the columns
that count are how it was exported, its INT8 layers, the agreement with FP32 and the speed. The networks that have no row in
results/zoo.json yet are the points of a sweep (`t2t-edge sweep`): interrupted, the same command goes on. At its end, however
it came, finished rows are kept and docs/networks.md is written anew with them. What fails is a row with the reason.
"""

import argparse
import json
import os
import shutil
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
from pipeline.cli import main as sweep
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
SWEEP = "zoo"  # its runs are in FOLDER/zoo


def main() -> None:
    """Run the sweep of the networks without a row, and keep what it came to."""
    options = arguments()
    rows = read_kept(options.results)
    names = [name for name in options.networks or FORTY if wanted(rows.get(name), options)]
    if names:
        path = write_sweep(names, options)
        try:
            sweep(["sweep", str(path), "--runs", str(options.folder)])
        finally:
            keep_rows(names, options)
    rows = read_kept(options.results)
    for number, name in enumerate(options.networks or FORTY, start=1):
        print(f"{number:>3}  {name}: {in_words(rows[name]) if name in rows else 'not run yet'}")
    if missing := [name for name in names if "failed" in rows.get(name, {"failed": ""})]:
        sys.exit(f"did not finish: {', '.join(missing)}")


def wanted(row: dict[str, Any] | None, options: argparse.Namespace) -> bool:
    """Whether a network is run: it has no row, or its row is asked for once more."""
    return row is None or options.again or ("failed" in row and options.retry)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="names of timm or of t2t-edge models; default: the forty")
    parser.add_argument("--size", type=int, help="pixels per side; default: each network's own")
    parser.add_argument("--epochs", type=int, help="default: what a minute allows here, 2 to 8")
    parser.add_argument("--again", action="store_true", help="run networks that have a row, too")
    parser.add_argument("--retry", action="store_true", help="run networks that failed once more")
    parser.add_argument(
        "--keep", action="store_true", help="keep the runs (0.4 GB each): --again then makes what has changed"
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


def write_sweep(names: list[str], options: argparse.Namespace) -> Path:
    """The images, the base recipe and the sweep's file; its path."""
    base = options.folder / "base.yaml"
    images = few_images(options.folder / "images")
    base.write_text(yaml.safe_dump(base_recipe(images)), encoding="utf-8")
    points = [point(name, options) for name in names]
    path = options.folder / f"{SWEEP}.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "recipe": str(base), "points": points}), encoding="utf-8")
    return path


def point(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The network's point. How long it trains is timed once: another length would be another training."""
    size = options.size or SIZES.get(name) or own_size(name)
    path = options.folder / "epochs.json"
    known = read_kept(path)
    if options.epochs is None and name not in known:
        known = keep(path, name, {"epochs": affordable_epochs(name, size)})
    epochs = options.epochs or known[name]["epochs"]
    return {
        "name": name, "model.name": name, "model.image_size": size, "train.epochs": epochs,
        "train.warmup_epochs": min(1, epochs - 1), "train.eval_every": epochs,
    }  # fmt: skip


def keep_rows(names: list[str], options: argparse.Namespace) -> None:
    """Keep the rows of networks that are done or have failed, write the page, and remove the runs if they are not to stay."""
    folder = options.folder / SWEEP
    outcome = folder / "sweep.json"
    points = json.loads(outcome.read_text(encoding="utf-8"))["points"] if outcome.is_file() else []
    failed = {point["name"]: point["reason"] for point in points if point["status"] == "failed"}
    for name in names:
        run = folder / name
        if not (done := (run / "report" / "manifest.json").is_file()) and name not in failed:
            continue
        recipe = yaml.safe_load((folder / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
        row = {
            "settings": settings(recipe["model"]["image_size"], recipe["train"]["epochs"]),
            "seconds": seconds_of(run),
        }
        keep(options.results, name, row | (read_run(run) if done else {"failed": failed[name]}))
        if not options.keep:
            shutil.rmtree(run)
    write_page(options.page, [table(read_kept(options.results))], *MARKERS)


def seconds_of(run: Path) -> int:
    """Of all stages."""
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in run.glob("*/manifest.json")]
    return round(sum(manifest["seconds"] for manifest in manifests))


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


def base_recipe(images: Path) -> dict[str, Any]:
    """A short training, INT8 on both CPU engines, and for a GPU that need not be here."""
    cpu = [{"backend": backend, "precisions": ["fp32", "int8"]} for backend in ENGINES]
    return {
        "schema": 1,
        "data": {"name": "few photographs", "root": str(images)},
        "model": {"name": "resnet18"},  # each point has its own
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.286] * 3, "std": [0.353] * 3},
        "train": {
            "batch_size": 10, "lr": 5e-4, "mixup": 0, "cutmix": 0, "auto_augment": None, "random_erasing": 0,
            "random_resize_scale": [0.8, 1.0], "drop_path": 0, "ema_decay": 0, "clip_grad": 1.0, "workers": 0,
        },
        "calibrate": {"images": 50},
        "build": [*cpu, {"backend": "tensorrt_rtx", "precisions": ["int8-fp16"], "targets": [TARGET]}],
        "evaluate": {"batch_size": 20},
        "benchmark": {"batch_sizes": [1], "warmup": 2, "rounds": 5, "calls": 3, "threads": os.cpu_count() or 1},
    }  # fmt: skip


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
