"""A pretrained ImageNet network and a validation folder, no more: evaluated on the classes that are there."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hub_cache import TIMM_NAME, use_cache, write_cache
from timm.data import ImageNetInfo

from calib.errors import InputError
from pipeline.cli import main
from pipeline.console.exit_status import WRONG_INPUT
from pipeline.recipe import Recipe
from pipeline.stages import run_stages

FOUND = ("n01440764", "n02102040", "n03000684")


@pytest.fixture
def values(tmp_path: Path, photographs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> dict:
    """A recipe's YAML for eight images of each of three classes in `val`; there is no `train`."""
    write_cache(tmp_path / "cache")
    use_cache(monkeypatch, tmp_path / "cache")
    for label, name in enumerate(FOUND):
        folder = tmp_path / "images" / "val" / name
        folder.mkdir(parents=True)
        for index, image in enumerate(photographs["val_images"][photographs["val_labels"] == label][:8]):
            cv2.imwrite(str(folder / f"{index}.png"), image)
    return {
        "schema": 1, "data": {"name": "a few classes", "root": str(tmp_path / "images")},
        "model": {"name": TIMM_NAME, "pretrained": True}, "train": {"epochs": 0, "workers": 0},
        "export": {"simplify": False}, "quantize": {"precisions": ["fp32"]}, "visualize": {"precision": "fp32"},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}],
    }  # fmt: skip


@pytest.mark.slow
def test_a_validation_folder_alone(values: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    where = ["--recipe", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--run", "small"]
    assert main(["evaluate", *where]) == 0
    said = capsys.readouterr().out
    assert "no images in" in said and "calibration set from " + str(tmp_path / "images" / "val") in said
    assert "drawn from the evaluation images" in said
    run = tmp_path / "runs" / "small"
    audit = json.loads((run / "calibrate" / "audit.json").read_text())
    assert audit["accepted"] and audit["images"] == 24 and "a little too good" in audit["warnings"][0]
    assert sum(audit["per_class"].values()) == 24 and len(audit["per_class"]) == 1000
    with np.load(run / "export" / "reference.npz") as reference:
        assert reference["logits"].shape == (24, 1000)
        synsets = ImageNetInfo("imagenet-1k").label_names()
        assert [synsets[label] for label in reference["labels"][::8]] == list(FOUND)
    evaluation = json.loads((run / "evaluate" / "evaluation.json").read_text())
    assert evaluation["dataset"]["classes"] == 1000 and len(evaluation["dataset"]["classes_without_images"]) == 997
    assert main(["evaluate", *where, "--dry-run"]) == 0
    assert "would run" not in capsys.readouterr().out, "what is filled in is the same again"


def test_a_dry_run_offline_knows_what_is_bound_to_fail(
    values: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(values | {"model": {"name": "test_resnet", "pretrained": True}})
    )
    where = ["--recipe", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--run", "small"]
    assert main(["evaluate", *where, "--dry-run"]) == WRONG_INPUT
    said = capsys.readouterr().err
    assert (
        "model.safetensors of the hub repository timm/test_resnet" in said and "next: bring model.safetensors" in said
    )


def test_training_needs_images_to_train_on(values: dict, tmp_path: Path) -> None:
    for classes in (None, list(FOUND)):
        chosen = Recipe.model_validate(values | {"data": values["data"] | {"classes": classes}, "train": {"epochs": 1}})
        with pytest.raises(
            InputError, match="train images are missing" if classes is None else "no images to train on"
        ):
            run_stages(chosen, tmp_path / "run", "train")


def test_weights_for_other_classes_have_to_be_trained(values: dict, tmp_path: Path) -> None:
    for name, other in zip(FOUND, ("cat", "cow", "dog"), strict=True):
        (tmp_path / "images" / "val" / name).rename(tmp_path / "images" / "val" / other)
    with pytest.raises(InputError, match=r"(?s)for other classes.*3 classes of images.*data\.classes"):
        run_stages(Recipe.model_validate(values), tmp_path / "run", "train")
