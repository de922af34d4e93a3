"""The networks of docs/quantization.md: the recipe of each and what is changed in it. All on the embedded photographs."""

from pathlib import Path
from typing import Any

from pipeline.recipe import read_recipe

DEMO, RESNET = Path("recipes/demo.yaml"), Path("recipes/resnet50.yaml")
NETWORKS: dict[str, tuple[Path, dict[str, dict[str, Any]]]] = {
    "t2t_vit_mini": (DEMO, {}),
    "t2t_vit_t_mini": (DEMO, {"model": {"name": "t2t_vit_t_mini"}}),
    "vit_small_patch16_224": (
        DEMO, {"model": {"name": "vit_small_patch16_224"},
               "train": {"epochs": 1, "lr": 3.0e-4, "warmup_epochs": 0, "ema_decay": 0.0}},
    ),
    "resnet50": (RESNET, {}),
}  # fmt: skip


def parts_of(name: str) -> dict[str, Any]:
    """What a network's training has in the place of the demo's: whole parts of a recipe, for a point of a sweep."""
    recipe, changes = NETWORKS[name]
    demo, own = read_recipe(DEMO), read_recipe(recipe)
    parts = {key: own[key] | changes.get(key, {}) for key in ("model", "preprocess", "train")}
    return {key: part for key, part in parts.items() if part != demo[key]}
