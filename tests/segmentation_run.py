"""Networks that classify pixels, for tests: one whose answers are known, as an engine of a run, and a finished run in seconds."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
import yaml
from torch import Tensor, nn

from calib.preprocess import Preprocess
from export.engines.engine import build_engine
from export.engines.spec import EngineSpec
from export.onnx_export import export_onnx, read_metadata, read_task
from pipeline.cli import main

COLOURS = ("red", "green", "blue", "purple")  # the classes: the brightest of three channels, and one that is nowhere
SPEC = Preprocess(64, 96, 0.8, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SCENE_CLASSES = ("background", "disc", "square")


class Brightest(nn.Module):
    """Logits (B, 4, H, W): the channels of the image (B, 3, H, W), and what is always lower."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images, images[:, :1] * 0 - 9], dim=1)


def write_engine(run: Path, spec: Preprocess = SPEC) -> None:
    """`run` as predict reads one: the engine of `Brightest`, and a report in which it passed."""
    run.mkdir(parents=True)
    export_onnx(Brightest(), spec, COLOURS, run / "fp32.onnx", task="segmentation")
    proto, engine = onnx.load(run / "fp32.onnx"), EngineSpec("onnxruntime", "fp32", None, (1, 1, 8))
    read, classes = read_metadata(proto)
    sidecar = build_engine(
        engine, run / "fp32.onnx", run / "build" / engine.name, read, classes, task=read_task(proto)
    )  # fmt: skip
    row = {"name": engine.name, "status": "pass", "sha256": sidecar.files[sidecar.engine]}
    report = {
        "preprocess_sha256": spec.sha256(), "variants": [row], "recommended": {"name": engine.name}, "task": "segmentation"
    }  # fmt: skip
    (run / "report").mkdir()
    (run / "report" / "report.json").write_text(json.dumps(report))


def recipe_values(root: Path) -> dict[str, Any]:
    """fpn_mini on 24 images of 32 px for a moment; the gate lets everything pass that is not broken."""
    return {
        "schema": 1,
        "data": {"name": "shapes", "root": str(root), "task": "segmentation"},
        "model": {"name": "fpn_mini", "image_size": 32},
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3},
        "train": {
            "epochs": 1, "batch_size": 8, "warmup_epochs": 0, "lr": 5e-3, "random_resize_scale": [0.8, 1.0], "ema_decay": 0,
            "workers": 0, "drop_path": 0.0, "label_smoothing": 0.0, "eval_every": 1,
        },
        "calibrate": {"images": 24},
        "quantize": {"precisions": ["fp32", "int8"]},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32", "int8"]}],
        "evaluate": {"batch_size": 6},
        "visualize": {"images": 4, "channels": 4},
        "benchmark": {
            "batch_sizes": [1, 4], "warmup": 1, "warmup_ms": 0, "rounds": 1, "calls": 2, "threads": 1, "energy_seconds": 0,
        },
        "gate": {"min_relative_miou": 0.5},
    }  # fmt: skip


def write_shapes(root: Path) -> None:
    """24 images to train on and 12 to evaluate, 48 × 40 pixels: noise with a bright disc and a dark square."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 12)):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
        for index in range(count):
            image = generator.normal(110, 20, (40, 48, 3))
            mask = np.zeros((40, 48), np.uint8)
            middle, corner = generator.integers(8, 32, 2), generator.integers(2, 26, 2)
            rows, columns = np.indices(mask.shape)
            mask[(rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < 64] = 1
            mask[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = 2
            image[mask == 1] += (90, 70, -60)
            image[mask == 2] += (-90, -40, 60)
            cv2.imwrite(str(root / split / "images" / f"{index:02d}.png"), image.clip(0, 255).astype(np.uint8))
            cv2.imwrite(str(root / split / "masks" / f"{index:02d}.png"), mask)
    (root / "classes.txt").write_text("\n".join(SCENE_CLASSES), encoding="utf-8")


def make_segmentation_run(folder: Path) -> None:
    """Write `images/`, `recipe.yaml`, the finished run `runs/shapes` and its bundle into `folder`."""
    write_shapes(folder / "images")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_values(folder / "images")))
    options = ["--runs", str(folder / "runs"), "--run", "shapes"]
    assert main(["run", "--recipe", str(folder / "recipe.yaml"), *options]) == 0
    assert main(["bundle", *options, "--images", "8"]) == 0


def copy_bundle(folder: Path, target: Path) -> Path:
    """The bundle as a device has it."""
    return Path(shutil.copytree(folder / "runs" / "shapes" / "bundle", target))
