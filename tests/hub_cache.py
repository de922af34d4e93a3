"""A hub's cache made by hand, as the hub's client lays it out, and no network: what a machine has that fetched a network once."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

REVISION = "0123456789abcdef0123456789abcdef01234567"
TIMM_NAME, OWN_NAME = "test_vit.r160_in1k", "hf-hub:someone/small"  # 0.4 M parameters, for 160 px, mean and std 0.5


def write_cache(cache: Path, classes: int = 1000, **changes: Any) -> None:
    """Weights of `test_vit` in two repositories below `cache`: timm's own, and someone's with a configuration and names.

    `changes` are to the configuration.
    """
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=classes)
    for repository in ("timm/test_vit.r160_in1k", "someone/small"):
        folder = _snapshot(cache, repository)
        save_file(model.state_dict(), folder / "model.safetensors")
        config = (
            model.pretrained_cfg
            | {
                "mean": [0.1, 0.2, 0.3],
                "std": [0.4, 0.5, 0.6],
                "crop_pct": 0.8,
                "num_classes": classes,
            }
            | changes
        )
        del config["hf_hub_id"], config["architecture"]
        content = {"architecture": "test_vit", "num_classes": classes, "pretrained_cfg": config}
        if repository.startswith("someone"):
            content["label_names"] = [f"class_{index}" for index in reversed(range(classes))]
        (folder / "config.json").write_text(json.dumps(content))


def _snapshot(cache: Path, repository: str) -> Path:
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(REVISION)
    folder = place / "snapshots" / REVISION
    folder.mkdir(parents=True)
    return folder


def use_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The client reads the environment when it is imported, which it is by now."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
