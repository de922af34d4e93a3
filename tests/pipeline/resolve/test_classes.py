"""The classes of a network that is used as it is: by data.classes, by what it says of itself, by WordNet's names."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub_cache import OWN_NAME, TIMM_NAME, use_cache, write_cache
from timm.data import ImageNetInfo

from calib.errors import InputError
from pipeline.data.dataset import open_dataset
from pipeline.recipe import Recipe
from pipeline.resolve.classes import resolve_classes
from pipeline.resolve.resolve import resolve
from pipeline.training.checkpoint import Checkpoint, write_checkpoint

SYNSETS = tuple(ImageNetInfo("imagenet-1k").label_names())
FOUND = ("n01440764", "n02102040", "n03000684")


def folders(root: Path, names: tuple[str, ...], *splits: str) -> Path:
    for split in splits:
        for name in names:
            (root / split / name).mkdir(parents=True)
            (root / split / name / f"{split}.png").write_bytes(b"")
    return root


def recipe(root: Path, model: dict[str, Any], epochs: int = 0, **data: Any) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "data": {"name": "any", "root": root, **data}, "model": model, "train": {"epochs": epochs},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}],
    })  # fmt: skip


def test_folders_of_wordnet_are_outputs_of_an_imagenet_network(tmp_path: Path) -> None:
    root = folders(tmp_path, FOUND, "val")
    chosen, (line,) = resolve_classes(recipe(root, {"name": TIMM_NAME, "pretrained": True}), unpack=False)
    assert chosen.data.classes == SYNSETS and "1,000" in line and "; 3 of them in" in line
    train, val = open_dataset(chosen.data)
    assert len(train) == 0 and [val.classes[label] for label in val.labels] == list(FOUND)
    assert val.labels == (0, 217, 491)
    assert resolve_classes(chosen, unpack=False) == (chosen, [])


def test_a_checkpoint_file_with_a_thousand_outputs_is_an_imagenet_network(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=1000).state_dict(), tmp_path / "weights.pth")
    model = {"name": "test_vit", "image_size": 160, "checkpoint": tmp_path / "weights.pth"}
    root = folders(tmp_path / "images", FOUND, "train", "val")
    assert resolve_classes(recipe(root, model), unpack=False)[0].data.classes == SYNSETS
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "weights.pth")
    assert resolve_classes(recipe(root, model), unpack=False)[0].data.classes is None, "it has these three classes"


@pytest.mark.parametrize(("names", "epochs"), [(("cat", "dog"), 0), (FOUND, 1)])
def test_other_folders_and_a_training_keep_the_folders(tmp_path: Path, names: tuple[str, ...], epochs: int) -> None:
    root = folders(tmp_path, names, "train", "val")
    chosen = recipe(root, {"name": TIMM_NAME, "pretrained": True}, epochs)
    assert resolve_classes(chosen, unpack=False) == (chosen, [])


def test_a_network_that_names_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the order of the folders, and more of them than there are images of."""
    write_cache(tmp_path / "cache", classes=4)
    use_cache(monkeypatch, tmp_path / "cache")
    root = folders(tmp_path / "images", ("class_1", "class_2"), "val")
    model = {"name": OWN_NAME, "pretrained": True}
    assert resolve_classes(recipe(root, model), unpack=False)[0].data.classes == (
        "class_3",
        "class_2",
        "class_1",
        "class_0",
    )
    write_checkpoint(Checkpoint("t2t_vit_mini", 32, ("class_2", "class_1"), {}, {}), tmp_path / "ours.pt")
    model = {"name": "t2t_vit_mini", "checkpoint": tmp_path / "ours.pt"}
    assert resolve_classes(recipe(root, model), unpack=False)[0].data.classes == ("class_2", "class_1")


def test_a_file_gives_names_and_order(tmp_path: Path) -> None:
    root = folders(tmp_path / "images", ("cat", "dog"), "train", "val")
    (tmp_path / "names.txt").write_text("dog\nbird\ncat\n")
    resolved = resolve(recipe(root, {"name": "t2t_vit_mini"}, 3, classes=tmp_path / "names.txt"), unpack=False)
    assert resolved.recipe.data.classes == ("dog", "bird", "cat")
    train, val = resolved.look.splits()
    assert train.classes == val.classes == ("dog", "bird", "cat") and train.labels == val.labels == (0, 2)
    assert train.without_images() == ("bird",)


@pytest.mark.parametrize("text", ["dog\ndog\n", "dog\n\ncat\n", "dog\n", "dog\na/b\n", "dog\n.hidden\n"])
def test_a_file_that_names_no_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(InputError, match=r"names\.txt does not name classes"):
        resolve_classes(recipe(tmp_path, {"name": "t2t_vit_mini"}, 1, classes=tmp_path / "names.txt"), unpack=False)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.classes cannot be read"):
        resolve_classes(recipe(tmp_path, {"name": "t2t_vit_mini"}, 1, classes=tmp_path / "none.txt"), unpack=False)


def test_a_folder_that_is_none_of_the_named_classes(tmp_path: Path) -> None:
    root = folders(tmp_path, ("cat", "cow"), "train", "val")
    chosen = recipe(root, {"name": "t2t_vit_mini"}, 1, classes=["cat", "dog"])
    with pytest.raises(InputError, match="other classes than the model"):
        resolve(chosen)
