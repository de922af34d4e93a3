"""The data set: an archive becomes image folders, whole or not at all, and nothing is in both splits."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calib.errors import InputError
from calib.images import read_split
from calib.preprocess import Preprocess, load_image
from pipeline.data import overlap
from pipeline.data.batches import batches, fitting
from pipeline.data.dataset import open_dataset
from pipeline.data.overlap import check_no_overlap
from pipeline.data.remarks import remarks
from pipeline.parts.data import DataPart


def arrays(seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "train_images": generator.integers(0, 256, (12, 8, 6), dtype=np.uint8),
        "train_labels": np.arange(12, dtype=np.uint8) % 3,
        "val_images": generator.integers(0, 256, (6, 8, 6), dtype=np.uint8),
        "val_labels": np.arange(6, dtype=np.uint8) % 3,
        "classes": np.array(["shoe", "bag", "coat"]),
    }


def part(folder: Path, content: dict[str, Any] | None = None) -> DataPart:
    if content is not None:
        np.savez_compressed(folder / "images.npz", **content)
    return DataPart(name="images", root=folder / "images")


def test_archive_becomes_folders(tmp_path: Path) -> None:
    content = arrays()
    train, val = open_dataset(part(tmp_path, content))
    assert (len(train), len(val)) == (12, 6)
    assert train.classes == val.classes == ("bag", "coat", "shoe")
    for split, name in ((train, "train"), (val, "val")):
        for path, label in zip(split.paths, split.labels, strict=True):
            index = int(path.stem)
            assert path.parent.name == split.classes[label] == content["classes"][content[f"{name}_labels"][index]]
            image = load_image(path)
            assert image.shape == (8, 6, 3)
            assert (image == content[f"{name}_images"][index][..., None]).all(), f"{path} has other pixels"
    assert set(train.paths).isdisjoint(val.paths)
    check_no_overlap(train, val)
    assert not (tmp_path / "images.partial").exists()


def test_colours_are_kept(tmp_path: Path) -> None:
    """The archive's channels are red, green, blue; OpenCV writes files from blue, green, red."""
    content = arrays()
    for split, count in (("train", 12), ("val", 6)):
        content[f"{split}_images"] = np.random.default_rng(2).integers(0, 256, (count, 8, 6, 3), dtype=np.uint8)
    content["train_images"][0] = (255, 128, 0)  # orange
    train, _ = open_dataset(part(tmp_path, content))
    for path in train.paths:
        assert (load_image(path) == content["train_images"][int(path.stem)]).all(), f"{path} has other pixels"
    with Image.open(tmp_path / "images/train/shoe/000000.png") as orange:  # another reader than ours
        assert (orange.mode, orange.getpixel((0, 0))) == ("RGB", (255, 128, 0))


def test_second_use_reads_the_folders(tmp_path: Path) -> None:
    first = open_dataset(part(tmp_path, arrays()))
    written = [path.stat().st_mtime_ns for split in first for path in split.paths]
    (tmp_path / "images.npz").write_bytes(b"no longer needed")
    assert open_dataset(part(tmp_path)) == first
    assert [path.stat().st_mtime_ns for split in first for path in split.paths] == written


@pytest.mark.parametrize("root", [".", "..", "../images"])
def test_the_current_folder_may_hold_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    open_dataset(part(tmp_path, arrays()))
    monkeypatch.chdir(tmp_path / "images" / "train" if root == ".." else tmp_path / "images")
    train, _ = open_dataset(DataPart(name="images", root=Path(root)))
    assert len(train) == 12 and set(train.names) == {f"{path.parent.name}/{path.name}" for path in train.paths}


def test_interrupted_unpacking_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    written: list[str] = []
    write = cv2.imwrite

    def interrupted(path: str, image: Any) -> bool:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        return bool(write(path, image))

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_dataset(part(tmp_path, arrays()))
    assert not (tmp_path / "images").exists(), "half a data set must not look like a whole one"
    (tmp_path / "images.partial" / "train" / "shoe" / "stray.png").write_bytes(b"from another archive")
    train, val = open_dataset(part(tmp_path))
    assert (len(train), len(val)) == (12, 6)
    assert not list((tmp_path / "images").rglob("stray.png"))


def test_failed_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.imwrite", lambda path, image: False)
    with pytest.raises(OSError, match="cannot write"):
        open_dataset(part(tmp_path, arrays()))
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_labels": np.array([0, 1, 2, 0, 1, 3])}, "labels from 0 to 3"),
        ({"val_labels": np.array([0, 1, 2, 0, 1, -1])}, "labels from -1 to 2"),
        ({"train_labels": np.zeros(11, np.uint8)}, r"labels \(11,\)"),
        ({"train_labels": np.zeros(12, np.float32)}, "float32"),
        ({"train_images": np.zeros((12, 8, 6), np.float32)}, "float32"),
        ({"train_images": np.zeros((12, 48), np.uint8)}, r"images \(12, 48\)"),
        ({"train_images": np.zeros((12, 8, 6, 4), np.uint8)}, r"images \(12, 8, 6, 4\)"),
        ({"val_images": np.zeros((6, 3, 8, 6), np.uint8)}, r"images \(6, 3, 8, 6\)"),
        ({"classes": np.array(["shoe", "../bag", "coat"])}, "cannot be folders"),
        ({"classes": np.array(["shoe", "shoe", "coat"])}, "twice"),
        ({"classes": np.array([1, 2, 3])}, "int64"),
        ({"classes": np.array(["shoe", "bag", None], dtype=object)}, "allow_pickle"),
    ],
)
def test_bad_arrays(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(part(tmp_path, arrays() | change))
    assert not (tmp_path / "images").exists()


def test_bad_archives(tmp_path: Path) -> None:
    content = arrays()
    del content["val_images"]
    data = part(tmp_path, content)
    with pytest.raises(InputError, match="val_images"):
        open_dataset(data)
    np.savez_compressed(tmp_path / "images.npz", **arrays())
    whole = (tmp_path / "images.npz").read_bytes()
    for broken in (b"", b"not a zip", whole[: len(whole) // 2], whole[:300] + b"\xff" * 50 + whole[350:]):
        (tmp_path / "images.npz").write_bytes(broken)
        with pytest.raises(InputError, match="cannot be used"):
            open_dataset(data)


def test_neither_folder_nor_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train images are missing"):
        open_dataset(part(tmp_path))


def test_same_image_in_both_splits(tmp_path: Path) -> None:
    content = arrays()
    content["val_images"][4] = content["train_images"][7]
    train, val = open_dataset(part(tmp_path, content))
    with pytest.raises(InputError, match=r"1 val image\(s\) are also in train") as caught:
        check_no_overlap(train, val)
    assert "000004.png" in str(caught.value.got) and "000007.png" in str(caught.value.got)


def test_overlap_of_large_files(tmp_path: Path) -> None:
    """Same size and same last 4 KiB are not enough; the same bytes under another name and class are."""
    train, val = open_dataset(part(tmp_path, arrays()))
    generator = np.random.default_rng(1)
    tail = generator.bytes(overlap._TAIL)
    train.paths[0].write_bytes(generator.bytes(5000) + tail)
    val.paths[0].write_bytes(generator.bytes(5000) + tail)
    check_no_overlap(train, val)
    shutil.copy(train.paths[0], val.paths[-1])
    with pytest.raises(InputError, match="1 val image"):
        check_no_overlap(train, val)


def test_remarks_name_what_is_left_out_and_what_is_missing(tmp_path: Path) -> None:
    root = tmp_path / "images"
    train, val = open_dataset(part(tmp_path, arrays()))
    assert remarks(train, val) == []
    for name in ("train/__MACOSX", "train/.ipynb_checkpoints", "val/bag/@eaDir"):
        (root / name).mkdir()
    for index in range(2):
        (root / "train" / "coat" / f"._{index}.png").write_bytes(b"")
    for name in ("shoe", "coat"):
        shutil.rmtree(root / "val" / name)
    (root / "val" / "coat").mkdir()
    assert remarks(*open_dataset(part(tmp_path))) == [
        f"left out (made by the system or a notebook): {root}/train/.ipynb_checkpoints/, {root}/train/__MACOSX/, "
        f"{root}/val/bag/@eaDir/ and 2 files such as {root}/train/coat/._0.png",
        "warning: 2 of 3 classes without evaluation images, so how well they are recognised is not known: coat, shoe",
    ]


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda root: (root / "val" / "glove").mkdir(), "has other classes than the model"),
        (lambda root: (root / "train" / "glove").mkdir(), "a class folder has no images"),
        (lambda root: [shutil.rmtree(root / "val" / name) for name in ("bag", "coat", "shoe")], "no class has images"),
    ],
)
def test_classes_that_train_and_val_may_not_differ_in(tmp_path: Path, breaks: Any, message: str) -> None:
    open_dataset(part(tmp_path, arrays()))
    breaks(tmp_path / "images")
    with pytest.raises(InputError, match=message):
        open_dataset(part(tmp_path))


def test_batches_of_large_images_are_smaller(image_root: Path) -> None:
    """Several engines are loaded at once, and each keeps the memory of the largest batch that it has seen."""
    assert fitting(50, 32, 32) == 50 and fitting(50, 224, 224) == 10 and fitting(1, 4096, 4096) == 1
    split = read_split(image_root, "val")
    spec = Preprocess(400, 300, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    sizes = [len(images) for images in batches(split, spec, 10)]
    assert max(sizes) == 4 and sum(sizes) == len(split)
