"""Which recipe a run was last made from: commands that are given none go on with it, and messages name it."""

import os
from pathlib import Path

from export.engines.sidecar import RECIPE_PATH


def recipe_noted(folder: Path) -> Path | None:
    """What `note_recipe` noted; None where it has not."""
    path = folder / RECIPE_PATH
    return Path(path.read_text(encoding="utf-8")) if path.is_file() else None


def note_recipe(folder: Path, recipe: Path) -> None:
    """Note which recipe the run in `folder` is made from. Under torchrun rank 0 does."""
    if int(os.environ.get("RANK", 0)) == 0 and recipe_noted(folder) != recipe:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RECIPE_PATH
        partial = path.with_name(f".{path.name}.partial")  # on a full disk the earlier note stays
        partial.write_text(str(recipe), encoding="utf-8")
        partial.replace(path)
