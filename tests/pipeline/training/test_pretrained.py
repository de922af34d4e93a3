"""timm's own weights from a cache, without a network: as they are, trained on, and what is said where they are not there."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub_cache import OWN_NAME, REVISION, TIMM_NAME, use_cache, write_cache
from safetensors.torch import load_file

from calib.errors import InputError
from pipeline.artifact import read_manifest
from pipeline.data.hub import find_weights
from pipeline.parts.model import ModelPart
from pipeline.recipe import Recipe
from pipeline.stages import run_stages
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.pretrained import load_pretrained

CLASSES = tuple(f"class_{index}" for index in range(1000))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with both networks, of a machine that is offline."""
    write_cache(tmp_path / "cache")
    use_cache(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


def part(name: str, **keys: Any) -> ModelPart:
    return ModelPart.model_validate({"name": name, "pretrained": True, "image_size": 160, **keys})


@pytest.mark.parametrize("name", [TIMM_NAME, OWN_NAME])
def test_the_weights_are_those_of_the_file(cache: Path, name: str) -> None:
    loaded, found = load_pretrained(part(name), CLASSES), find_weights(name)
    assert found.path.is_relative_to(cache) and found.revision == REVISION
    wanted = load_file(found.path)
    assert all(torch.equal(value, wanted[key]) for key, value in loaded.model.state_dict().items())
    assert not loaded.fresh_classifier and loaded.notes == (f"weights of {found.source}, revision {REVISION[:12]}",)


def test_other_classes_and_another_size(cache: Path) -> None:
    loaded, wanted = (
        load_pretrained(part(TIMM_NAME, image_size=96), ("a", "b")),
        load_file(find_weights(TIMM_NAME).path),
    )
    state = loaded.model.state_dict()
    other = {
        key for key, value in state.items() if value.shape != wanted[key].shape or not torch.equal(value, wanted[key])
    }
    assert other == {"head.weight", "head.bias", "pos_embed"} and loaded.fresh_classifier
    assert loaded.notes[1] == "fresh for 2 classes: head.bias, head.weight"
    assert loaded.model(torch.zeros(1, 3, 96, 96)).shape == (1, 2)


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "hf-hub:nobody/none"])
def test_without_a_network_one_message_names_the_file(cache: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_pretrained(part(name), CLASSES)
    said = str(caught.value)
    file = "config.json" if name.startswith("hf-hub") else "model.safetensors"
    repository = name.removeprefix("hf-hub:") if name.startswith("hf-hub") else f"timm/{name}"
    assert f"{file} of the hub repository {repository}: HF_HUB_OFFLINE is set" in said
    assert "model.checkpoint" in said and str(cache / f"models--{repository.replace('/', '--')}") in said
    assert "\x1b" not in said and "http" not in said


@pytest.mark.parametrize("name", ["t2t_vit_14", "test_vit.none", "no_such_network"])
def test_a_network_without_weights(cache: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no pretrained weights|no such model"):
        find_weights(name)


def test_nothing_in_a_file_is_run(cache: Path, tmp_path: Path) -> None:
    """A pickle in place of the weights: torch's own loader refuses it, and nothing falls back to one that runs it."""

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "was-run",)

    path = find_weights(TIMM_NAME).path
    torch.save({"head.weight": Runs()}, path.with_name("pytorch_model.bin"))
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be loaded\n.*pytorch_model\.bin"):
        load_pretrained(part(TIMM_NAME), CLASSES)
    assert not (tmp_path / "was-run").exists()


def test_a_damaged_file(cache: Path) -> None:
    path = find_weights(TIMM_NAME).path
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_pretrained(part(TIMM_NAME), CLASSES)


def test_a_run_is_of_the_weights_that_it_used(
    cache: Path, image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on for an epoch, with size and preprocessing of the network; other weights in the cache make another run."""
    recipe = Recipe.model_validate({
        "schema": 1, "data": {"name": "three classes", "root": image_root}, "model": {"name": TIMM_NAME, "pretrained": True},
        "train": {"epochs": 1, "workers": 0}, "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}],
    })  # fmt: skip
    first = run_stages(recipe, tmp_path / "run", "train")
    checkpoint = read_checkpoint(first.path("checkpoint.pt"))
    assert (checkpoint.image_size, checkpoint.preprocess["mean"], len(checkpoint.classes)) == (160, [0.5, 0.5, 0.5], 3)
    manifest = read_manifest(first.folder)
    assert manifest is not None
    notes = manifest["notes"]["pretrained"]
    assert (notes["source"], notes["revision"], notes["file"]) == (f"timm/{TIMM_NAME}", REVISION, "model.safetensors")
    said = capsys.readouterr().out
    assert "images: 160 px, crop 0.95" in said and "for 60 images, fewer than 2,000, weights given" in said
    assert run_stages(recipe, tmp_path / "run", "train").key == first.key
    write_weights(find_weights(TIMM_NAME).path)
    assert run_stages(recipe, tmp_path / "run", "train").key != first.key


def write_weights(path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    save_file(timm.create_model("test_vit").state_dict(), path)


def test_a_configuration_of_something_else(cache: Path) -> None:
    (find_weights(OWN_NAME).path.parent / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="is not that of a timm network"):
        load_pretrained(part(OWN_NAME), CLASSES)
