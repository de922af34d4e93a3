"""The colour sample set: what `make_emoji.py` does, on small packages, and what the stored archive holds."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from data_scripts import DATA, data_script

from pipeline.data.dataset import open_dataset
from pipeline.data.overlap import check_no_overlap
from pipeline.parts.data import DataPart

GROUPS = ("Activities", "Flags", "Symbols")
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def make() -> Iterator[ModuleType]:
    with data_script("make_emoji") as module:
        yield module


@pytest.fixture(scope="module")
def stored() -> Arrays:
    with np.load(DATA / "emoji.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def emoji_of(stored: Arrays, split: str) -> list[str]:
    return [str(name).split("/")[1].upper() for name in stored[f"{split}_names"]]


def test_stored_content(make: ModuleType, stored: Arrays) -> None:
    assert make.content_sha256(stored) == make.CONTENT_SHA256, "emoji.npz is not what make_emoji.py makes"
    assert stored["train_images"].shape == (2898, 64, 64, 3)
    counts = np.bincount(stored["val_labels"], minlength=9)
    assert dict(zip(stored["classes"].tolist(), counts.tolist(), strict=True)) == {
        "activities": 68, "animals-nature": 100, "flags": 99, "food-drink": 100, "objects": 100,
        "people-body": 100, "smileys-emotion": 100, "symbols": 100, "travel-places": 100,
    }  # fmt: skip


def test_no_emoji_is_in_both_splits(make: ModuleType, stored: Arrays) -> None:
    """By code points, by kin (a woman of a trade beside a man of it), and by pixels."""
    train, val = emoji_of(stored, "train"), emoji_of(stored, "val")
    assert set(train).isdisjoint(val)
    assert {make.kin(emoji) for emoji in train}.isdisjoint(make.kin(emoji) for emoji in val)
    pixels = [image.tobytes() for split in ("train", "val") for image in stored[f"{split}_images"]]
    assert len(set(pixels)) == len(pixels) == 3765, "a picture is there twice"


def test_colours_are_the_drawings(stored: Arrays) -> None:
    """Flags tell red, green and blue apart: Italy's left is green, its right red; Ukraine's top is blue."""
    images = dict(zip(stored["train_names"].tolist(), stored["train_images"], strict=True))
    images |= dict(zip(stored["val_names"].tolist(), stored["val_images"], strict=True))
    for artist in ("google", "twitter"):
        italy, ukraine = images[f"{artist}/1f1ee-1f1f9"], images[f"{artist}/1f1fa-1f1e6"]
        assert italy[32, 8].argmax() == 1, italy[32, 8]
        assert italy[32, 56].argmax() == 0, italy[32, 56]
        assert ukraine[20, 32].argmax() == 2, ukraine[20, 32]
        assert (italy[0, 0] == 255).all(), "the background is white"


@pytest.mark.parametrize(
    ("emoji", "kin"),
    [
        ("1F600", "1F600"),
        ("2640-FE0F", "2640"),  # the sign itself
        ("27A1-FE0F", "27A1"),
        ("1F1E9-1F1EA", "1F1E9-1F1EA"),
        ("0023-FE0F-20E3", "0023-20E3"),
        ("1F3F3-FE0F-200D-1F308", "1F3F3"),
        ("1F468", "people"),
        ("1F9D1-200D-1F91D-200D-1F9D1", "people"),
        ("1F469-200D-2764-FE0F-200D-1F48B-200D-1F468", "people"),
        ("1F468-200D-1F469-200D-1F467-200D-1F466", "people"),
        ("1F468-200D-1F692", "people-1F692"),
        ("1F9D1-200D-1F692", "people-1F692"),
        ("1F692", "1F692"),
        ("1F469-200D-1F9AF-200D-27A1-FE0F", "people-1F9AF"),
        ("1F575-FE0F-200D-2640-FE0F", "1F575"),
        ("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),
    ],
)
def test_kin(make: ModuleType, emoji: str, kin: str) -> None:
    assert make.kin(emoji) == kin


def test_over_white(make: ModuleType) -> None:
    rgba = np.array([[[255, 0, 10, 255], [255, 0, 10, 0], [255, 0, 10, 51], [0, 0, 1, 128]]], np.uint8)
    expected = rgba[..., :3] * (rgba[..., 3:] / 255) + 255 * (1 - rgba[..., 3:] / 255)
    assert (make.over_white(rgba) == np.rint(expected)).all()


def write_package(folder: Path, artist: str, entries: list[dict[str, Any]], seed: int) -> None:
    """A package of random pictures; emoji 1F0FF looks like 1F000."""
    generator = np.random.default_rng(seed)
    images = folder / "img" / artist / "64"
    images.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": f"emoji-datasource-{artist}", "version": "16.0.0"}))
    (folder / "emoji.json").write_text(json.dumps(entries))
    for entry in sorted(entries, key=lambda entry: entry["unified"]):
        cv2.imwrite(str(images / entry["image"]), generator.integers(0, 256, (64, 64, 4), dtype=np.uint8))
    shutil.copy(images / "1f000.png", images / "1f0ff.png")


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    """Both artists' packages of 61 emoji in three classes, and a skin tone that is none."""
    points = [f"{0x1F000 + number:X}" for number in range(60)] + ["1F0FF"]
    entries = [
        {"unified": point, "image": f"{point.lower()}.png", "category": GROUPS[index % 3]}
        | {"has_img_google": True, "has_img_twitter": index != 7}
        for index, point in enumerate(points)
    ]
    entries.append(entries[0] | {"unified": "1F3FB", "image": "1f3fb.png", "category": "Component"})
    for seed, artist in enumerate(("google", "twitter")):
        write_package(tmp_path / artist, artist, entries if seed else entries[::-1], seed)
    return {artist: tmp_path / artist for artist in ("google", "twitter")}


def read_all(make: ModuleType, packages: dict[str, Path]) -> list[Any]:
    return [picture for artist, folder in packages.items() for picture in make.read_package(folder, artist)]


def test_the_same_packages_give_the_same_bytes(make: ModuleType, packages: dict[str, Path], tmp_path: Path) -> None:
    pictures = read_all(make, packages)
    assert len(pictures) == 61 + 60, "all but the skin tone and the one that Twitter lacks"
    for name, order in (("a", pictures), ("b", pictures)):
        make.write_npz(tmp_path / f"{name}.npz", make.make_arrays(order))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    arrays = make.make_arrays(pictures)
    changed = make.make_arrays([*pictures[:-1], make.Picture("twitter", "1F0FF", 0, ~pictures[-1].pixels)])
    assert make.content_sha256(arrays) != make.content_sha256(changed)


def test_split_of_small_packages(make: ModuleType, packages: dict[str, Path]) -> None:
    arrays = make.make_arrays(read_all(make, packages))
    train, val = set(emoji_of(arrays, "train")), set(emoji_of(arrays, "val"))
    assert train.isdisjoint(val) and "1F3FB" not in train | val
    assert "1F0FF" not in train | val, "the same picture under another code point is left out"
    share = len(arrays["val_labels"]) / (len(arrays["val_labels"]) + len(arrays["train_labels"]))
    assert 0.35 < share <= 0.4
    for split in ("train", "val"):
        artists = {str(name).split("/")[0] for name in arrays[f"{split}_names"]}
        assert artists == {"google", "twitter"}


def test_a_shared_picture_joins_groups(make: ModuleType) -> None:
    """A looks like B with one artist, B like C with the other: all three stay together."""
    white, black = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64, 3), np.uint8)
    others = [np.full((64, 64, 3), level, np.uint8) for level in (50, 100)]
    pictures = [
        make.Picture("google", "A", 0, white), make.Picture("google", "B", 0, white),
        make.Picture("google", "C", 0, others[0]), make.Picture("twitter", "A", 0, others[1]),
        make.Picture("twitter", "B", 0, black), make.Picture("twitter", "C", 0, black),
    ]  # fmt: skip
    (group,) = make.group(pictures)
    assert [(picture.artist, picture.emoji) for picture in group].count(("google", "B")) == 0
    assert {picture.emoji for picture in group} == {"A", "B", "C"} and len(group) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "15.1.2"}, "is not the npm package emoji-datasource-google 16.0.0"),
        ({"name": "emoji-datasource-twitter"}, "is not the npm package emoji-datasource-google"),
    ],
)
def test_other_packages_are_refused(
    make: ModuleType, packages: dict[str, Path], change: dict[str, str], message: str
) -> None:
    description = packages["google"] / "package.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | change))
    with pytest.raises(SystemExit, match=message):
        make.read_package(packages["google"], "google")


def test_damaged_pictures_are_refused(make: ModuleType, packages: dict[str, Path]) -> None:
    (packages["google"] / "img/google/64/1f005.png").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"1f005\.png is not an RGBA image"):
        make.read_package(packages["google"], "google")


def test_other_content_is_not_written(packages: dict[str, Path], tmp_path: Path) -> None:
    """The command, run as a person does, on packages that are not the published ones."""
    for name in ("make_emoji.py", "make_fashion_mnist.py"):
        shutil.copy(DATA / name, tmp_path / name)
    command = [sys.executable, str(tmp_path / "make_emoji.py"), str(packages["google"]), str(packages["twitter"])]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 1 and "other content than published" in finished.stderr, finished
    assert not (tmp_path / "emoji.npz").exists()


def test_it_opens_as_images(tmp_path: Path) -> None:
    """As the recipe does: folders are written, and the pipeline's own check finds nothing in both."""
    shutil.copy(DATA / "emoji.npz", tmp_path / "emoji.npz")
    train, val = open_dataset(DataPart(name="emoji", root=tmp_path / "emoji"))
    assert (len(train), len(val), len(train.classes)) == (2898, 867, 9)
    check_no_overlap(train, val)
