"""A small segmentation through the stages: the first scenes of the embedded set, and a VT-FPN that has seen them twice."""

import tarfile
from pathlib import Path
from typing import Any

from pipeline.recipe import Recipe

SIZE = 64
COUNTS = {"train": 96, "val": 24}
ARCHIVE = Path(__file__).parents[1] / "data" / "scenes.tar"


def write_scenes(root: Path) -> None:
    """`classes.txt`, and the first images of each split with their masks."""
    with tarfile.open(ARCHIVE) as archive:
        members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
        names = ["classes.txt"]
        for split, count in COUNTS.items():
            for kind in ("images", "masks"):
                names += sorted(name for name in members if name.startswith(f"{split}/{kind}/"))[:count]
        archive.extractall(root, [members[name] for name in names], filter="data")


def recipe_values(root: Path, **parts: Any) -> dict[str, Any]:
    """A recipe's YAML; `parts` replace whole parts."""
    return {
        "schema": 1,
        "data": {"name": "scenes", "root": str(root), "task": "segmentation"},
        "model": {"name": "vt_fpn_mini", "image_size": SIZE},
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "train": {
            "epochs": 2, "batch_size": 16, "warmup_epochs": 0, "lr": 2e-3, "mixup": 0, "cutmix": 0, "auto_augment": None,
            "random_erasing": 0, "random_resize_scale": [0.8, 1.0], "ema_decay": 0, "drop_path": 0, "label_smoothing": 0,
            "workers": 0, "eval_every": 2,
        },
        "calibrate": {"images": 32},
        "quantize": {"precisions": ["fp32", "int8", "int8-qat"]},
        "qat": {"epochs": 1, "batch_size": 16, "lr": 1e-4, "distill": 0.5, "workers": 0},
        "sensitivity": {"images": 4},
        "search": {"images": 40, "backend": "openvino", "max_drop_pp": 10},
        "gate": {"min_relative_miou": 0.5},
        "build": [
            {"backend": backend, "precisions": ["fp32", "int8", "int8-qat"]} for backend in ("onnxruntime", "openvino")
        ],
        "evaluate": {"batch_size": 12},
        "benchmark": {"batch_sizes": [1], "warmup": 1, "warmup_ms": 0, "rounds": 2, "calls": 3, "threads": 1},
    } | parts  # fmt: skip


def scenes_recipe(root: Path, **parts: Any) -> Recipe:
    return Recipe.model_validate(recipe_values(root, **parts))
