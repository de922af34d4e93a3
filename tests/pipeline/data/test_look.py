"""A recipe's images are looked at once a command; damaged ones are named before training."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.errors import InputError
from pipeline.data import look as look_file
from pipeline.data.look import Look
from pipeline.recipe import Recipe


@pytest.fixture
def root(image_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_root, tmp_path / "images"))


def recipe(root: Path, model: dict[str, Any] | None = None, source: Path | None = None, **data: Any) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "data": {"name": "three classes", "root": str(root), **data},
        "model": {"name": "t2t_vit_mini", "image_size": 32, **(model or {})}, "calibrate": {"source": source},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}], "visualize": {"precision": "fp32"},
    })  # fmt: skip


def test_what_is_found_is_kept_until_it_is_forgotten(root: Path) -> None:
    look = Look(recipe(root))
    before = {name: found.digest for name, found in look.images().items()}
    assert list(before) == ["train", "val"]
    (root / "val" / "class_0" / "000.png").unlink()
    assert {name: found.digest for name, found in look.images().items()} == before
    look.forget()
    after = {name: found.digest for name, found in look.images().items()}
    assert after["train"] == before["train"] and after["val"] != before["val"] and len(look.splits()[1]) == 29


@pytest.mark.parametrize("decode", [True, False])
def test_damaged_images_are_named(root: Path, decode: bool) -> None:
    photos = [root / "train" / "class_1" / f"{index:03d}.png" for index in range(7)]
    for photo in photos:
        photo.write_bytes(photo.read_bytes()[:100])
    with pytest.raises(InputError) as caught:
        Look(recipe(root), decode=decode).check()
    message = str(caught.value)
    assert "7 of 90 images cannot be decoded" in message and f"{photos[4]} and 2 more" in message
    assert f"rm '{photos[0]}'" in message and "data.check: false" in message
    Look(recipe(root, check=False), decode=decode).check()


def test_damaged_calibration_images_are_named(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "calibration"
    shutil.copytree(root / "val" / "class_0", source)
    (source / "003.png").write_bytes(b"no image")
    look = Look(recipe(root, source=source))
    with pytest.raises(InputError, match=r"(?s)1 of 100 images cannot be decoded.*calibration/003.png"):
        look.check()
    (source / "003.png").unlink()
    look.forget()
    look.check()


def test_an_npz_and_a_checkpoint_are_files_and_no_images(root: Path, tmp_path: Path) -> None:
    source, weights = tmp_path / "images.npz", tmp_path / "weights.pt"
    np.savez(source, images=np.zeros(3))
    weights.write_bytes(b"weights")
    look = Look(recipe(root, {"checkpoint": str(weights)}, source), decode=True)
    look.check()
    found, held = look.source(), look.checkpoint()
    assert found is not None and held is not None and found.names == ("images.npz",) and held.names == ("weights.pt",)
    weights.write_bytes(b"others")
    assert look.checkpoint() == held
    look.forget()
    again = look.checkpoint()
    assert again is not None and again.digest != held.digest
    renamed = Look(
        recipe(root, {"checkpoint": str(weights.rename(tmp_path / "renamed.pt"))}, source.rename(tmp_path / "r.npz"))
    )
    found_renamed, held_renamed = renamed.source(), renamed.checkpoint()
    assert found_renamed is not None and held_renamed is not None
    assert (found_renamed.digest, held_renamed.digest) == (found.digest, again.digest), (
        "what a file is called decides nothing"
    )
    look.forget()
    gone = look.checkpoint()
    assert gone is not None and gone.digest == ""
    assert Look(recipe(root)).source() is Look(recipe(root)).checkpoint() is None


def test_nothing_is_unpacked_for_a_look_that_may_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def opened(data: object, *, unpack: bool) -> Any:
        asked.append(unpack)
        raise InputError("the images are not unpacked yet")

    monkeypatch.setattr(look_file, "open_dataset", opened)
    with pytest.raises(InputError, match="not unpacked"):
        Look(recipe(root), unpack=False).images()
    assert asked == [False]
