"""A sweep of eight points on a few photographs, through the real stages on a local Ray: what the sweep's tests look at."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.cli import main

BASE = {
    "schema": 1,
    "data": {"name": "three classes", "root": "images"},
    "model": {"name": "t2t_vit_mini", "image_size": 32},
    "train": {
        "epochs": 2, "batch_size": 20, "warmup_epochs": 0, "cooldown_epochs": 0, "mixup": 0, "cutmix": 0, "auto_augment": None,
        "random_erasing": 0, "random_resize_scale": [0.8, 1.0], "ema_decay": 0, "drop_path": 0, "workers": 0,
    },
    "calibrate": {"images": 24},
    "build": [{"backend": "onnxruntime", "precisions": ["fp32", "int8"]}],
    "evaluate": {"batch_size": 10},
    "visualize": {"images": 4, "channels": 2, "blocks": 2},
    "benchmark": {
        "batch_sizes": [1], "warmup": 1, "warmup_ms": 0, "rounds": 2, "calls": 3, "threads": 1, "energy_seconds": 0,
    },
    "gate": {"min_relative_top1": 0},
}  # fmt: skip
AXES = {
    "model.name": ["t2t_vit_mini", "test_vit"],
    "quantize.policy": ["weights", "full"],
    "quantize.method": ["max", "percentile"],
}


def write_sweep(folder: Path, image_root: Path, name: str = "grid", **values: Any) -> Path:
    """`images`, `base.yaml` and the sweep's file in `folder`; its path."""
    if not (folder / "images").exists():
        (folder / "images").symlink_to(image_root)
    base = BASE | {"data": {"name": "three classes", "root": str(folder / "images")}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    path = folder / f"{name}.yaml"
    sweep = {"schema": 1, "recipe": str(folder / "base.yaml")} | (values or {"axes": AXES})
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return path


def sweep(path: Path, *options: str) -> int:
    """`t2t-edge sweep`, whose runs lie beside the file."""
    return main(["sweep", str(path), "--runs", str(path.parent / "runs"), *options])


def make_swept(folder: Path, image_root: Path) -> None:
    """Write the sweep `grid` into `folder`, and its runs."""
    assert sweep(write_sweep(folder, image_root)) == 0
