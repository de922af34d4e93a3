"""The networks of docs/quantization.md: the recipe of each and what is changed in it. All on the embedded photographs."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.recipe import Recipe

DEMO, RESNET = "recipes/demo.yaml", "recipes/resnet50.yaml"
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "t2t_vit_mini": (DEMO, {}),
    "t2t_vit_t_mini": (DEMO, {"model": {"name": "t2t_vit_t_mini"}}),
    "vit_small_patch16_224": (
        DEMO, {"model": {"name": "vit_small_patch16_224"},
               "train": {"epochs": 1, "lr": 3.0e-4, "warmup_epochs": 0, "ema_decay": 0.0}},
    ),
    "resnet50": (RESNET, {}),
}  # fmt: skip


def load_network(name: str) -> Recipe:
    """The recipe of one network."""
    recipe, changes = NETWORKS[name]
    values = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    for key, changed in changes.items():
        values[key] = values.get(key, {}) | changed
    return Recipe.model_validate(values)
