"""Size and preprocessing: of the recipe, else of the weights, else the defaults; and where each came from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from brought_files import write_brought
from hub_cache import OWN_NAME, TIMM_NAME, use_cache, write_cache

from calib.errors import InputError
from calib.preprocess import GREY, Preprocess
from pipeline.parts.model import GREY_MEAN, GREY_STD
from pipeline.recipe import Recipe
from pipeline.resolve.network import resolve_network
from pipeline.training.checkpoint import Checkpoint, write_checkpoint

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def resolved(model: dict[str, Any], **preprocess: Any) -> tuple[Preprocess, list[str]]:
    recipe = Recipe.model_validate({
        "schema": 1, "data": {"name": "any", "root": "nowhere"}, "model": model, "preprocess": preprocess,
        "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}],
    })  # fmt: skip
    found, lines = resolve_network(recipe)
    again, said = resolve_network(found)
    assert again == found and said[0].count("recipe") == 1, "what is filled in is stated from then on"
    return found.preprocess_spec(), lines


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"name": "t2t_vit_14", "image_size": 192}, 192),
        ({"name": "t2t_vit_mini"}, 32),
        ({"name": "vit_tiny_patch16_384"}, 384),
    ],
)
def test_without_weights_the_defaults_are_used(model: dict[str, Any], size: int) -> None:
    """Also of a network whose published weights have another mean: these are not used here."""
    spec, lines = resolved(model)
    assert spec == Preprocess(size, size, 0.9, "bicubic", *IMAGENET)
    origin = "recipe" if "image_size" in model else "network"
    assert lines == [
        f"images: {size} px ({origin}); crop 0.9, bicubic, mean 0.485 0.456 0.406, std 0.229 0.224 0.225 (default)"
    ]


def test_weights_of_timm_bring_their_preprocessing(tmp_path: Path) -> None:
    """Their configuration comes with timm: nothing is fetched for it."""
    half = (0.5, 0.5, 0.5)
    spec, lines = resolved({"name": TIMM_NAME, "pretrained": True})
    assert spec == Preprocess(160, 160, 0.95, "bicubic", half, half)
    assert lines == ["images: 160 px, crop 0.95, bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (network)"]
    torch.save(
        {"any": torch.zeros(1)}, tmp_path / "weights.pt"
    )  # someone else's file: it is of that network by its name
    assert resolved({"name": TIMM_NAME, "checkpoint": tmp_path / "weights.pt"})[0] == spec


def test_what_the_recipe_states_is_kept_and_a_contradiction_is_a_warning() -> None:
    spec, lines = resolved({"name": TIMM_NAME, "pretrained": True, "image_size": 64}, mean=IMAGENET[0], crop_pct=1.0)
    assert spec == Preprocess(64, 64, 1.0, "bicubic", IMAGENET[0], (0.5, 0.5, 0.5))
    assert lines[0] == (
        "images: 64 px, crop 1 (recipe); bicubic (network); mean 0.485 0.456 0.406 (recipe); std 0.5 0.5 0.5 (network)"
    )
    (warning,) = lines[1:]
    assert (
        warning.startswith("warning: preprocess.mean is 0.485 0.456 0.406 in the recipe, but the weights")
        and "0.5" in warning
    )


def test_a_repository_brings_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cache(tmp_path)
    use_cache(monkeypatch, tmp_path)
    assert resolved({"name": OWN_NAME, "pretrained": True})[0] == Preprocess(
        160, 160, 0.8, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    )


def test_our_checkpoint_brings_its_own(tmp_path: Path) -> None:
    spec = Preprocess(48, 48, 0.7, "bilinear", (0.2, 0.3, 0.4), (0.1, 0.2, 0.3))
    write_checkpoint(Checkpoint("t2t_vit_mini", 48, ("a", "b"), spec.to_dict(), {}), tmp_path / "ours.pt")
    found, lines = resolved({"name": "t2t_vit_mini", "checkpoint": tmp_path / "ours.pt"})
    assert found == spec and lines[0].endswith("(checkpoint)")


@pytest.mark.parametrize("model", [{"factory": "own.package:make"}, {"name": "no_such_network"}])
def test_a_size_that_nothing_says(model: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no such model" if "name" in model else "model.image_size"):
        resolved(model)


def test_images_that_are_not_square(tmp_path: Path) -> None:
    """Of the recipe, or of our checkpoint."""
    spec, lines = resolved({"name": "resnet18", "image_size": [64, 32]})
    assert (spec.height, spec.width) == (64, 32) and lines[0].startswith("images: [64, 32] px (recipe); crop 0.9")
    spec = Preprocess(48, 24, 0.7, "bilinear", (0.2, 0.3, 0.4), (0.1, 0.2, 0.3))
    write_checkpoint(Checkpoint("t2t_vit_mini", (48, 24), ("a", "b"), spec.to_dict(), {}), tmp_path / "ours.pt")
    assert resolved({"name": "t2t_vit_mini", "checkpoint": tmp_path / "ours.pt"})[0] == spec


def test_a_configuration_that_is_not_square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cache(tmp_path, input_size=[3, 160, 96])
    use_cache(monkeypatch, tmp_path)
    spec, lines = resolved({"name": OWN_NAME, "pretrained": True})
    assert (spec.height, spec.width) == (160, 96) and lines[0].startswith("images: [160, 96] px, crop 0.8")


def test_grey_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration says how to normalise grey images where it is one of grey images; else it is ImageNet's values in grey."""
    spec, lines = resolved({"name": TIMM_NAME, "pretrained": True, "in_chans": 1})
    assert spec == Preprocess(160, 160, 0.95, "bicubic", GREY_MEAN, GREY_STD, GREY)
    assert lines == ["images: 160 px, crop 0.95, bicubic (network); mean 0.459, std 0.226 (default)"]
    write_cache(tmp_path, mean=[0.3], std=[0.2])
    use_cache(monkeypatch, tmp_path)
    model = {"name": OWN_NAME, "pretrained": True, "in_chans": 1}
    assert resolved(model)[0] == Preprocess(160, 160, 0.8, "bicubic", (0.3,), (0.2,), GREY)
    spec, lines = resolved(model, mean=0.4)
    assert (spec.mean, spec.std) == ((0.4,), (0.2,)) and lines[1].startswith(
        "warning: preprocess.mean is 0.4 in the recipe"
    )
    assert resolved(model | {"in_chans": 3})[0].mean == IMAGENET[0], "of a network for colours, grey values say nothing"


def test_an_onnx_file_says_its_size_and_channels(tmp_path: Path) -> None:
    spec, lines = resolved({"onnx": write_brought(tmp_path / "colour.onnx", (48, 32))})
    assert spec == Preprocess(48, 32, 0.9, "bicubic", *IMAGENET)
    assert lines == [
        "images: [48, 32] px (file); crop 0.9, bicubic, mean 0.485 0.456 0.406, std 0.229 0.224 0.225 (default)"
    ]
    grey = write_brought(tmp_path / "grey.onnx", channels=1)
    assert resolved({"onnx": grey})[0] == Preprocess(32, 32, 0.9, "bicubic", GREY_MEAN, GREY_STD, GREY)
    all_stated = {"mean": IMAGENET[0], "std": IMAGENET[1], "crop_pct": 1.0, "interpolation": "bicubic"}
    assert resolved({"onnx": grey, "image_size": 32}, **all_stated)[0].colour == "RGB", (
        "the check then refuses the file"
    )
    with pytest.raises(InputError, match="no such ONNX file"):
        resolved({"onnx": tmp_path / "gone.onnx"})
