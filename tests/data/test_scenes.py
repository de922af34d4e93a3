"""The sample set with masks: what `make_scenes.py` does, on small photographs, and what the stored archive holds."""

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from data_scripts import DATA, data_script
from PIL import Image

from calib.masks import read_masked_split
from pipeline.console.progress import track
from pipeline.data.dataset import make_folders
from pipeline.data.overlap import check_no_overlap
from pipeline.parts.data import DataPart

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def make() -> Iterator[ModuleType]:
    with data_script("make_scenes") as module:
        yield module


@pytest.fixture(scope="module")
def stored() -> Files:
    with tarfile.open(DATA / "scenes.tar", "r:") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == sorted(member.name for member in members)
        assert all(member.isreg() and (member.mtime, member.uid, member.uname) == (0, 0, "") for member in members)
        return {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def photographs(make: ModuleType) -> dict[str, np.ndarray]:
    """Twelve small pictures, each of one level of its own."""
    return {f"{index}.jpg": np.full((120, 150, 3), 20 * index, np.uint8) for index in range(12)}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Four drawings of each class and split: a square of a colour of its own, white inside."""
    names = ["symbols", "animals-nature", "flags", "objects", "food-drink", "people-body", "smileys-emotion"]
    images = np.full((28, 64, 64, 3), 255, np.uint8)
    for index, image in enumerate(images):
        image[10:50, 12:52] = (index * 5, 60, 200 - index * 5)
        image[20:30, 20:30] = 255
    labels = np.arange(28) % 7
    return {
        f"{split}_{kind}": values
        for split in ("train", "val")
        for kind, values in (("images", images), ("labels", labels))
    } | {"classes": np.array(names)}


def test_stored_content(make: ModuleType, stored: Files) -> None:
    assert make.content_sha256(stored.items()) == make.CONTENT_SHA256, "scenes.tar is not what make_scenes.py makes"
    assert tuple(stored["classes.txt"].decode().splitlines()) == make.CLASSES
    assert (DATA / "scenes.tar").stat().st_size < 8_000_000
    assert len(stored) == 1 + 2 * sum(make.SCENES.values())


def test_every_class_is_in_both_splits(make: ModuleType, stored: Files) -> None:
    for split, count in make.SCENES.items():
        pixels, scenes = np.zeros(256, int), np.zeros(256, int)
        for index in range(count):
            with Image.open(io.BytesIO(stored[f"{split}/masks/{index:04d}.png"])) as mask:
                found = np.bincount(np.asarray(mask).ravel(), minlength=256)
            pixels += found
            scenes += found > 0
        assert pixels[len(make.CLASSES) :].sum() == 0 and 0.5 < pixels[0] / pixels.sum() < 0.8
        assert (scenes[1 : len(make.CLASSES)] > 0.2 * count).all(), scenes[: len(make.CLASSES)]


def test_it_opens_as_images_with_masks(tmp_path: Path) -> None:
    """As a recipe does: folders are written, all masks fit, and the pipeline's own check finds nothing in both."""
    shutil.copy(DATA / "scenes.tar", tmp_path / "scenes.tar")
    make_folders(DataPart(name="scenes", root=tmp_path / "scenes"))
    train, val = read_masked_split(tmp_path / "scenes", "train"), read_masked_split(tmp_path / "scenes", "val")
    assert (len(train), len(val), len(train.classes)) == (1000, 250, 7)
    train.check(track)
    val.check(track)
    check_no_overlap(train, val)


def test_the_same_input_gives_the_same_bytes(
    make: ModuleType, arrays: dict[str, np.ndarray], photographs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for name, order in (("a", photographs), ("b", dict(reversed(photographs.items())))):
        make.write_tar(tmp_path / f"{name}.tar", make.make_files(arrays, order, {"val": 2, "train": 3}))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
    assert len(names) == 11 and names == sorted(names)


def test_a_photograph_is_in_one_split(make: ModuleType, photographs: dict[str, np.ndarray]) -> None:
    splits = make.split_photographs(photographs)
    levels = {split: {int(image[0, 0, 0]) for image in images} for split, images in splits.items()}
    assert len(levels["val"]) == make.VAL_PHOTOGRAPHS and len(levels["train"]) == 4
    assert levels["train"].isdisjoint(levels["val"])


def test_a_drawing_is_in_one_split(make: ModuleType) -> None:
    """`tests/data/test_emoji.py` shows that no emoji of emoji.npz is in both: here, that scenes take their own split's."""
    with np.load(DATA / "emoji.npz", allow_pickle=False) as stored:
        names, images, labels = stored["classes"].tolist(), stored["val_images"], stored["val_labels"]
        few = {"classes": stored["classes"], "val_images": images[::20], "val_labels": labels[::20]}
    found = make.read_drawings(few, "val")
    expected = [0] + [int((labels[::20] == names.index(name)).sum()) for name in make.CLASSES[1:]]
    assert [len(own) for own in found] == expected and all(
        drawing.label == label for label, own in enumerate(found) for drawing in own
    )


def test_white_inside_stays_and_white_outside_goes(make: ModuleType, arrays: dict[str, np.ndarray]) -> None:
    pixels = make.cut_out(arrays["train_images"][3])
    assert (pixels[:9, :, 3] == 0).all() and (pixels[10:50, 12:52, 3] == 1).all()
    assert (pixels[21:29, 21:29] == 1).all(), "white inside is opaque white"
    assert np.allclose(pixels[12, 14, :3] * 255, (15, 60, 185))


@pytest.mark.parametrize("opacity", [0.25, 0.5, 0.75])
def test_the_rim_is_as_opaque_as_it_was(make: ModuleType, opacity: float) -> None:
    """A rim that was drawn over white gives its opacity and its colour back."""
    colour = np.array([200, 40, 80])
    image = np.full((64, 64, 3), 255, np.uint8)
    image[19:45, 19:45] = (opacity * colour + (1 - opacity) * 255).round()
    image[20:44, 20:44] = colour
    pixels = make.cut_out(image)
    rim = pixels[19, 25:40]
    assert np.allclose(rim[:, 3], opacity, atol=0.02) and np.allclose(rim[:, :3], opacity * colour / 255, atol=0.02)


def test_the_top_drawing_counts(
    make: ModuleType, arrays: dict[str, np.ndarray], photographs: dict[str, np.ndarray]
) -> None:
    """Where the mask is of a class, the scene has that class's colour or its white; elsewhere it is the photograph's level."""
    drawings = make.read_drawings(arrays, "train")
    colours = [
        np.array([np.round(drawing.pixels[12, 14, :3] * 255) for drawing in own]).reshape(-1, 3) for own in drawings
    ]
    for index in range(10):
        scene, mask = make.compose(drawings, list(photographs.values()), np.random.default_rng(index))
        assert scene.shape == (96, 96, 3) and mask.shape == (96, 96) and set(np.unique(mask)) <= set(range(7))
        for label in np.unique(mask[mask > 0]):
            own = np.vstack([colours[label], [[255, 255, 255]]])
            apart = np.abs(scene[mask == label][:, None].astype(float) - own).max(axis=2).min(axis=1)
            assert np.median(apart) < 3, f"pixels of {make.CLASSES[label]} have colours of others"
        levels, counts = np.unique(scene[mask == 0].reshape(-1, 3), axis=0, return_counts=True)
        assert len(set(levels[counts.argmax()].tolist())) == 1 and counts.max() > 0.6 * counts.sum()


def test_missing_photographs_are_named(make: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nothing\.png is not there, or no image"):
        make.read_photograph(tmp_path / "nothing.png")


def test_large_photographs_are_made_smaller(make: ModuleType, tmp_path: Path) -> None:
    Image.new("RGB", (1000, 640), (255, 128, 0)).save(tmp_path / "large.png")
    image = make.read_photograph(tmp_path / "large.png")
    assert image.shape == (320, 500, 3) and image[5, 5].tolist() == [255, 128, 0]
