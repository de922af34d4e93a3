"""Image folders and balanced draws from them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from calib.calibration_source import source_files
from calib.errors import InputError
from calib.hidden import hidden_part, is_hidden
from calib.images import balanced_subset, read_split


def test_reads_in_a_fixed_order(image_root: Path) -> None:
    split = read_split(image_root, "train")
    assert split.classes == ("class_0", "class_1", "class_2") and len(split) == 60
    assert list(split.paths) == sorted(split.paths) and split.labels == tuple(sorted(split.labels))
    assert split == read_split(image_root, "train")


def test_names_are_relative_and_the_same_wherever_the_folder_lies(
    image_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = read_split(image_root, "val").names
    assert names == tuple(f"class_{label}/{index:03d}.png" for label in range(3) for index in range(10))
    root = shutil.copytree(image_root, tmp_path / "copy")
    monkeypatch.chdir(root)
    assert read_split(Path(), "val").names == read_split(root, "val").names == names
    assert read_split(Path(), "val").paths[0] == Path("val/class_0/000.png")


def test_balanced_subset_is_seeded_and_even(image_root: Path) -> None:
    split = read_split(image_root, "train")
    chosen = balanced_subset(split, 31, seed=5)
    counts = np.bincount([split.labels[index] for index in chosen])
    assert len(set(chosen)) == 31 and counts.max() - counts.min() <= 1
    assert chosen == balanced_subset(split, 31, seed=5) != balanced_subset(split, 31, seed=6)
    with pytest.raises(InputError, match="too few images"):
        balanced_subset(split, 61, seed=0)


def test_what_systems_and_notebooks_leave_behind_is_no_class_and_no_image(image_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(image_root, tmp_path / "copy")
    before = read_split(root, "train")
    assert before.left_out == ()
    photo = root / "train" / "class_1" / "000.png"
    folders = ("__MACOSX/class_1", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", ".hidden", "class_1/@eaDir/000.png")
    for name in folders:
        (root / "train" / name).mkdir(parents=True)
        shutil.copy(photo, root / "train" / name / "x.png")
    for name in ("._000.png", ".DS_Store", "Thumbs.db", ".000.png"):
        (root / "train" / "class_1" / name).write_bytes(b"no image")
    after = read_split(root, "train")
    assert (after.classes, after.paths, after.labels) == (before.classes, before.paths, before.labels)
    assert set(after.left_out) == {
        "__MACOSX/", ".ipynb_checkpoints/", "@eaDir/", "$RECYCLE.BIN/", ".hidden/", "class_1/@eaDir/", "class_1/._000.png",
        "class_1/.000.png",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["notes", "bag", "_x", "MACOSX", "thumbs", "recycle.bin"])
def test_other_names_are_classes(name: str) -> None:
    assert not is_hidden(name) and hidden_part(Path(name, "a.png")) is None


def test_evaluation_may_lack_classes(image_root: Path, tmp_path: Path) -> None:
    """A folder that is missing or empty; the classes stay the model's, and so do the labels."""
    root = shutil.copytree(image_root, tmp_path / "copy")
    classes = ("class_0", "class_1", "class_2")
    assert read_split(root, "val", classes, may_lack=True) == read_split(root, "val", classes)
    shutil.rmtree(root / "val" / "class_0")
    for image in (root / "val" / "class_1").iterdir():
        image.unlink()
    split = read_split(root, "val", classes, may_lack=True)
    assert split.classes == classes and split.without_images() == ("class_0", "class_1")
    assert set(split.labels) == {2} and {path.parent.name for path in split.paths} == {"class_2"}
    (root / "val" / "class_9").mkdir()
    with pytest.raises(InputError, match=r"(?s)other classes than the model.*not in the model: \['class_9'\]\n"):
        read_split(root, "val", classes, may_lack=True)
    shutil.rmtree(root / "val" / "class_9")
    with pytest.raises(InputError, match="has other classes"):  # as the train split is read
        read_split(root, "val", classes)
    shutil.rmtree(root / "val" / "class_2")
    with pytest.raises(InputError, match=r"no class has images in .*val"):
        read_split(root, "val", classes, may_lack=True)


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
        source_files(folder)
