"""Image folders and balanced draws from them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from calib.calibration_source import source_fingerprint
from calib.errors import InputError
from calib.images import balanced_subset, read_split


def test_reads_in_a_fixed_order(image_root: Path) -> None:
    split = read_split(image_root, "train")
    assert split.classes == ("class_0", "class_1", "class_2") and len(split) == 60
    assert list(split.paths) == sorted(split.paths) and split.labels == tuple(sorted(split.labels))
    assert split.fingerprint() == read_split(image_root, "train").fingerprint()


def test_fingerprint_sees_a_change(image_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(image_root, tmp_path / "copy")
    before = read_split(root, "val").fingerprint()
    next((root / "val" / "class_1").iterdir()).unlink()
    assert read_split(root, "val").fingerprint() != before


def test_balanced_subset_is_seeded_and_even(image_root: Path) -> None:
    split = read_split(image_root, "train")
    chosen = balanced_subset(split, 31, seed=5)
    counts = np.bincount([split.labels[index] for index in chosen])
    assert len(set(chosen)) == 31 and counts.max() - counts.min() <= 1
    assert chosen == balanced_subset(split, 31, seed=5) != balanced_subset(split, 31, seed=6)
    with pytest.raises(InputError, match="too few images"):
        balanced_subset(split, 61, seed=0)


def _empty_class(root: Path) -> None:
    (root / "val" / "class_9").mkdir()


def _one_class(root: Path) -> None:
    shutil.rmtree(root / "val" / "class_1")
    shutil.rmtree(root / "val" / "class_2")


@pytest.mark.parametrize(
    ("breaks", "classes", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), None, "images are missing"),
        (_empty_class, None, "has no images"),
        (_one_class, None, "at least two class folders"),
        (lambda root: None, ("class_0", "class_1", "shoe"), "other classes than the model"),
    ],
)
def test_bad_folders(image_root: Path, tmp_path: Path, breaks, classes, message: str) -> None:
    root = shutil.copytree(image_root, tmp_path / "copy")
    breaks(root)
    with pytest.raises(InputError, match=message):
        read_split(root, "val", classes)


@pytest.mark.parametrize("where", ["class_1/caf\udce9.png", "caf\udce9/000.png"])
def test_names_that_are_not_utf8_are_refused(image_root: Path, tmp_path: Path, where: str) -> None:
    root = shutil.copytree(image_root, tmp_path / "copy")
    path = root / "val" / where
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(next((root / "val" / "class_1").iterdir()).read_bytes())
    with pytest.raises(InputError, match="names that are not UTF-8") as caught:
        read_split(root, "val")
    assert "caf\\udce9" in str(caught.value).encode().decode()  # can be printed


def test_a_folder_of_calibration_images_with_such_a_name(image_root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(image_root / "val" / "class_1", tmp_path / "copy")
    next(folder.iterdir()).rename(folder / "caf\udce9.png")
    with pytest.raises(InputError, match="names that are not UTF-8"):
        source_fingerprint(folder)
