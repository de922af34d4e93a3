"""Stage 1: train, or take over a checkpoint; `checkpoint.pt` carries model name, classes and preprocessing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.recipe import Recipe
from pipeline.training.train import train


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `checkpoint.pt`, `last.pt`, `metrics.csv` and TensorBoard events into `folder`."""
    return train(recipe, folder)
