"""Stage 3: draw the calibration set, class-balanced, from the training images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calib.calibration import make_calibration_set
from calib.images import read_split
from calib.preprocess import Preprocess
from pipeline.artifact import Artifact
from pipeline.checkpoint import read_checkpoint
from pipeline.recipe import Recipe


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `calibration.npz` into `folder`."""
    checkpoint = read_checkpoint(inputs["train"].path("checkpoint.pt"))
    spec = Preprocess.from_dict(checkpoint.preprocess)
    split = read_split(recipe.data.root, "train", tuple(checkpoint.classes))
    part = recipe.calibrate
    made = make_calibration_set(split, spec, part.images, part.seed, folder / "calibration.npz")
    counts = np.bincount(made.labels, minlength=len(split.classes))
    print(f"           {len(made.labels)} training images, {counts.min()} to {counts.max()} of each class")
    return {
        "images": len(made.labels),
        "per_class": [int(counts.min()), int(counts.max())],
        "preprocess_sha256": spec.sha256(),
    }
