"""A finished run of t2t_vit_mini on photographs through every stage: what the chain's tests look at, and QAT goes on from."""

import shutil
from pathlib import Path

import yaml

from pipeline.cli import main


def copy_run(shared: Path, target: Path) -> Path:
    """A copy of a folder with runs that other tests look at; without their locks, which come and go meanwhile."""
    return Path(shutil.copytree(shared, target, ignore=shutil.ignore_patterns("*.lock*")))


def recipe_values(root: Path) -> dict:
    return {
        "schema": 1,
        "data": {"name": "three classes", "root": str(root)},
        "model": {"name": "t2t_vit_mini", "image_size": 32},
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.286] * 3, "std": [0.353] * 3},
        "train": {
            "epochs": 5, "batch_size": 20, "warmup_epochs": 0, "lr": 5e-4, "mixup": 0, "cutmix": 0, "auto_augment": None,
            "random_erasing": 0, "random_resize_scale": [0.8, 1.0], "ema_decay": 0, "drop_path": 0.1, "clip_grad": None,
            "workers": 0, "eval_every": 5,
        },
        "calibrate": {"images": 30},
        "build": [
            {"backend": "onnxruntime", "precisions": ["fp32", "int8"]},
            {"backend": "openvino", "precisions": ["fp32", "int8"]},
            {"backend": "tensorrt_rtx", "precisions": ["int8-fp16"], "targets": ["sm86"]},
            {"backend": "tensorrt", "precisions": ["fp16"]},
        ],
        "evaluate": {"batch_size": 10},
        "visualize": {"images": 8, "channels": 4},
        "benchmark": {"batch_sizes": [1, 8], "warmup": 1, "warmup_ms": 0, "rounds": 2, "calls": 3, "threads": 1},
    }  # fmt: skip


def write_recipe(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def run(folder: Path, command: str, *more: str) -> int:
    options = [] if command in ("predict", "bundle") else ["--recipe", str(folder / "recipe.yaml")]
    return main([command, *options, "--runs", str(folder / "runs"), "--run", "small", *more])


def make_chain(folder: Path, image_root: Path) -> None:
    """Write `recipe.yaml` and the finished run `runs/small` into `folder`."""
    write_recipe(folder / "recipe.yaml", recipe_values(image_root))
    assert run(folder, "run") == 0
