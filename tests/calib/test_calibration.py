"""The calibration set: real images only, only those preprocessed as the network's, and never all of them in memory."""

import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib import calibration_source
from calib.calibration import (
    CalibrationSet,
    load_calibration_set,
    make_calibration_set,
    spread,
    write_calibration_set,
)
from calib.calibration_source import draw_calibration_images, source_files
from calib.errors import InputError
from calib.images import ImageSplit, read_split
from calib.npz import write_npz
from calib.preprocess import Preprocess, load_batch

CLASSES = ("class_0", "class_1", "class_2")


@pytest.fixture(scope="module")
def train(image_root: Path) -> ImageSplit:
    return read_split(image_root, "train")


def test_round_trip(train: ImageSplit, spec: Preprocess, tmp_path: Path) -> None:
    made = make_calibration_set(train, spec, 12, 0, tmp_path / "c.npz")
    read = load_calibration_set(tmp_path / "c.npz", spec)
    assert (read.images == made.images).all() and read.images.shape == (12, 32, 32, 3)
    assert np.bincount(read.labels).tolist() == [4, 4, 4]
    assert (read.images == load_batch([train.root / name for name in read.names], spec)).all()
    with np.load(tmp_path / "c.npz", allow_pickle=False) as stored:  # a plain npz for everyone else
        assert (stored["images"] == made.images).all() and stored["images"].dtype == np.uint8
        assert str(stored["preprocess_sha256"]) == spec.sha256()


def test_the_same_draw_is_the_same_bytes(train: ImageSplit, spec: Preprocess, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_calibration_set(train, spec, 18, seed, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_other_preprocessing_is_an_error(train: ImageSplit, spec: Preprocess, tmp_path: Path) -> None:
    make_calibration_set(train, spec, 6, 0, tmp_path / "c.npz")
    with pytest.raises(InputError, match="preprocessed differently"):
        load_calibration_set(tmp_path / "c.npz", replace(spec, mean=(0.5, 0.5, 0.5)))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is missing"), (b"PK\x03\x04 cut", "cannot be read"), (b"", "cannot be read")]
)
def test_missing_or_broken_is_an_error(spec: Preprocess, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_calibration_set(tmp_path / "c.npz", spec)


def test_a_changed_byte_is_found_while_reading(train: ImageSplit, spec: Preprocess, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    make_calibration_set(train, spec, 6, 0, path)
    content = bytearray(path.read_bytes())
    content[-4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read[\s\S]*CRC"):
        list(load_calibration_set(path, spec).batches(4))


@pytest.mark.parametrize("size", [1, 5, 7, 16, 100])
def test_streaming_reads_what_reading_at_once_does(
    train: ImageSplit, spec: Preprocess, tmp_path: Path, size: int
) -> None:
    make_calibration_set(train, spec, 16, 0, tmp_path / "c.npz")
    stored = load_calibration_set(tmp_path / "c.npz", spec)
    for one in (stored, CalibrationSet(stored.images, stored.labels)):  # from the file, and from memory
        batches = list(one.batches(size))
        assert [len(batch) for batch in batches] == [size] * (16 // size) + [16 % size] * bool(16 % size)
        assert (np.concatenate(batches) == stored.images).all()
        assert (one.first(size) == stored.images[:size]).all()
        assert (one.take([0, 3, 15]) == stored.images[[0, 3, 15]]).all()
        with pytest.raises(ValueError, match="must rise"):
            one.take([3, 3])


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """1,000 images of 64 px are 12.3 MB; writing and reading them takes a chunk of 64, 0.8 MB, and little more."""
    spec = Preprocess(64, 64, 1.0, "bilinear", (0.5,) * 3, (0.2,) * 3)
    for index in range(40):
        image = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    names = tuple(f"{index % 40}.png" for index in range(1000))
    split = ImageSplit(tmp_path, ("a", "b"), names, tuple(index % 2 for index in range(1000)))
    tracemalloc.start()
    try:
        make_calibration_set(split, spec, 1000, 0, tmp_path / "c.npz")
        total = sum(int(batch.sum()) for batch in load_calibration_set(tmp_path / "c.npz", spec).batches(64))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 0 and (tmp_path / "c.npz").stat().st_size > 12_000_000
    assert peak < 6_000_000, f"{peak / 1e6:.1f} MB"


@pytest.mark.parametrize(("total", "count"), [(1, 1), (10, 3), (64, 64), (65, 64), (512, 64), (5, 64)])
def test_images_are_evenly_spaced(total: int, count: int) -> None:
    indices = spread(total, count)
    steps = np.diff(indices)
    assert len(indices) == min(total, count) and indices[0] == 0 and indices[-1] < total
    assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_spread_takes_every_class_of_a_sorted_set() -> None:
    labels = np.repeat(np.arange(10), 51)
    assert np.bincount(labels[spread(len(labels), 64)]).tolist() == pytest.approx([6.4] * 10, abs=1)


def test_a_spread_keeps_labels_and_names_beside_their_images() -> None:
    """A set sorted by class: every class is in the spread, where the first images are of one class only."""
    images = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1).repeat(3, axis=3)
    labels, names = np.repeat(np.arange(6), 10), tuple(f"{index}.png" for index in range(60))
    some = CalibrationSet(images, labels, names).spread(12)
    chosen = some.images[:, 0, 0, 0].tolist()
    assert chosen == spread(60, 12) and np.bincount(some.labels).tolist() == [2] * 6
    assert some.labels.tolist() == [index // 10 for index in chosen]
    assert some.names == tuple(f"{index}.png" for index in chosen)
    everything = CalibrationSet(images, labels).spread(100)
    assert (everything.images == images).all() and (everything.labels == labels).all() and everything.names == ()


# --- sources ---------------------------------------------------------------------------------------------------------


def draw(source: Path | None, train: ImageSplit, spec: Preprocess, path: Path, count: int = 18, seed: int = 0):
    return write_calibration_set(draw_calibration_images(source, train, spec, count, seed), spec, path / "drawn.npz")


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "source.npz", **arrays)  # type: ignore[arg-type]
    return path / "source.npz"


def flat_folder(image_root: Path, path: Path) -> Path:
    """The val images in one folder."""
    folder = path / "flat"
    folder.mkdir()
    for index, image in enumerate(sorted((image_root / "val").rglob("*.png"))):
        shutil.copy(image, folder / f"{index}.png")
    return folder


def test_a_folder_of_the_models_classes_is_labelled_and_balanced(
    image_root: Path, train: ImageSplit, spec: Preprocess, tmp_path: Path
) -> None:
    made = draw(image_root / "val", train, spec, tmp_path)
    assert np.bincount(made.labels).tolist() == [6, 6, 6]
    assert all(name.split("/")[0] == CLASSES[label] for name, label in zip(made.names, made.labels, strict=True))


def test_a_flat_folder_has_no_labels(image_root: Path, train: ImageSplit, spec: Preprocess, tmp_path: Path) -> None:
    source = flat_folder(image_root, tmp_path)
    made, again, other = (draw(source, train, spec, tmp_path, seed=seed) for seed in (0, 0, 1))
    assert set(made.labels.tolist()) == {-1} and len(set(made.names)) == 18
    assert made.names == again.names != other.names


def test_without_a_number_all_there_are_are_drawn(
    image_root: Path, train: ImageSplit, spec: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 training images, a folder of 30, an npz of 60; from more than the default's number the default is drawn."""
    images, labels = load_batch(list(train.paths), spec), np.asarray(train.labels)
    sources = (
        None,
        image_root / "val",
        flat_folder(image_root, tmp_path),
        save_npz(tmp_path, images=images, labels=labels),
    )
    for source, count in zip(sources, (60, 30, 30, 60), strict=True):
        assert len(draw_calibration_images(source, train, spec, None, 0).names) == count
        with pytest.raises(InputError, match=rf"(?s){count} images.*at least the 512 that"):
            draw_calibration_images(source, train, spec, 512, 0)
    monkeypatch.setattr(calibration_source, "DEFAULT_IMAGES", 12)
    for source in sources:
        assert draw_calibration_images(source, train, spec, None, 0).names == draw_calibration_images(
            source, train, spec, 12, 0
        ).names  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"(?s)too few images.*got: 0 images.*next: add images"):
        draw_calibration_images(tmp_path / "empty", train, spec, None, 0)


@pytest.mark.parametrize("flat", [True, False])
def test_hidden_files_of_a_source_are_left_out(
    image_root: Path, train: ImageSplit, spec: Preprocess, tmp_path: Path, flat: bool
) -> None:
    source = flat_folder(image_root, tmp_path) if flat else shutil.copytree(image_root / "val", tmp_path / "classes")
    before = draw_calibration_images(source, train, spec, None, 0)
    files = source_files(source)
    inner = source if flat else source / "class_1"
    for path in (source / "__MACOSX" / "class_9" / "a.png", inner / "._0.png", inner / "@eaDir" / "0.png" / "S.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    after = draw_calibration_images(source, train, spec, None, 0)
    assert after.names == before.names and before.left_out == () and source_files(source) == files
    place = "" if flat else "class_1/"
    assert set(after.left_out) == {"__MACOSX/", f"{place}._0.png", f"{place}@eaDir/"}


def test_an_npz_is_drawn_from(train: ImageSplit, spec: Preprocess, tmp_path: Path) -> None:
    images, labels = load_batch(list(train.paths), spec), np.asarray(train.labels)
    made = draw(save_npz(tmp_path, images=images, labels=labels), train, spec, tmp_path)
    assert np.bincount(made.labels).tolist() == [6, 6, 6]
    rows = [int(name.removeprefix("source.npz[").removesuffix("]")) for name in made.names]
    assert (made.images == images[rows]).all() and (made.labels == labels[rows]).all()
    unknown = draw(save_npz(tmp_path, images=images), train, spec, tmp_path)
    assert set(unknown.labels.tolist()) == {-1} and len(set(unknown.names)) == 18


def test_the_files_of_a_source(image_root: Path, tmp_path: Path) -> None:
    folder = flat_folder(image_root, tmp_path)
    before = source_files(folder)
    assert before == tuple(sorted(path.name for path in folder.iterdir())) and before
    (folder / "3.png").unlink()
    assert set(before) - set(source_files(folder)) == {"3.png"}


NOISE = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
NAN = np.where(np.arange(20)[:, None, None, None] == 7, np.float32(np.nan), NOISE.astype(np.float32) / 255)
THREE = np.arange(20) % 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": NAN}, r"float32 \(20, .*, values from 0 to 1, 3072 NaN and 0 infinite values in 1 images \(rows 7\)"),
        ({"images": np.where(np.isnan(NAN), np.float32(-np.inf), NAN)}, r"0 NaN and 3072 infinite values in 1 images \(rows 7\)"),
        ({"images": NOISE / 255}, r"values from 0 to 1\n.*\n.*they look scaled to 0–1: save \(images \* 255\)"),
        ({"images": NOISE / 64 - 2}, r"values from -2 to 1\.984[\s\S]*look normalised"),
        ({"images": NOISE.astype(np.float16)}, r"values from 0 to 255[\s\S]*astype\('uint8'\)"),
        ({"images": NOISE.astype(np.int64)}, r"int64 \(20, 32, 32, 3\)"),
        ({"images": NOISE.transpose(0, 3, 1, 2)}, r"\(20, 3, 32, 32\)[\s\S]*channels last"),
        ({"images": NOISE[..., 0]}, r"\(20, 32, 32\)[\s\S]*repeat the grey channel"),
        ({"images": NOISE[:, :16]}, r"\(20, 16, 32, 3\)[\s\S]*crop them to 32×32"),
        ({"images": NOISE[:0]}, r"\(0, 32, 32, 3\)"),
        ({"images": NOISE % 2}, "hold nothing but 0 and 1"),
        ({"images": NOISE.astype(object)}, "Python objects"),
        ({"images": np.asfortranarray(NOISE)}, "column by column"),
        ({"pictures": NOISE}, r"no array images; there is \['pictures'\]"),
        ({"images": NOISE, "labels": THREE[:5]}, r"labels of .* do not fit\n.*int64 \(5,\), 0 to 2"),
        ({"images": NOISE, "labels": THREE + 1}, "1 to 3[\\s\\S]*from 0 to 2"),
        ({"images": NOISE, "labels": THREE - 1}, "-1 to 1"),
        ({"images": NOISE, "labels": THREE / 2}, "float64"),
        ({"images": NOISE, "labels": THREE % 2}, r"1 of the model's 3 classes have no calibration image\n.*nothing of class_2"),
        ({"images": NOISE, "preprocess_sha256": np.asarray("another")}, "preprocessed differently"),
        ({"images": NOISE[:17]}, r"too few images for calibration\n.*17 images\n.*18 .*\n.*set calibrate.images: 17"),
    ],
)  # fmt: skip
def test_an_unfit_npz(
    train: ImageSplit, spec: Preprocess, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        draw(save_npz(tmp_path, **arrays), train, spec, tmp_path)


def _missing_class(folder: Path) -> None:
    shutil.rmtree(folder / "class_1")


def _empty_class(folder: Path) -> None:
    for path in (folder / "class_1").iterdir():
        path.unlink()


def _misspelt(folder: Path) -> None:
    (folder / "class_1").rename(folder / "klass_1")


def _no_images(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _damaged(folder: Path) -> None:
    for name in ("class_0/001.png", "class_1/003.png", "class_2/008.png"):
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for index in range(4):
        (folder / f"class_0/00{index + 4}.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (_missing_class, r"1 of the model's 3 classes have no calibration image\n.*nothing of class_1"),
        (_empty_class, "nothing of class_1"),
        (_misspelt, r"other classes than the model\n.*2 folders named as classes, and \['klass_1'\]"),
        (_no_images, r"too few images for calibration\n.*0 images"),
        (_damaged, r"7 of 30 calibration images cannot be decoded\n.*class_0/001.png \(\d+ bytes\); (.*; ){4}…\n"),
        (shutil.rmtree, "no such file or folder"),
    ],
)
def test_an_unfit_folder(
    image_root: Path, train: ImageSplit, spec: Preprocess, tmp_path: Path, breaks: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(image_root / "val", tmp_path / "source")
    breaks(folder)
    with pytest.raises(InputError, match=message):
        draw(folder, train, spec, tmp_path, count=30)
    assert {path.name for path in tmp_path.iterdir()} <= {"source"}  # nothing half-written stays


def test_a_source_needs_no_image_of_a_class_that_the_recipe_has_none_of(
    image_root: Path, train: ImageSplit, spec: Preprocess, tmp_path: Path
) -> None:
    """`data.classes` may name more classes than there are images of, in whatever order."""
    named = replace(train, classes=(*train.classes, "nowhere"))
    made = draw(image_root / "val", named, spec, tmp_path, count=30)
    assert sorted(set(made.labels.tolist())) == [0, 1, 2]


def test_neither_a_folder_nor_an_npz(train: ImageSplit, spec: Preprocess, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(InputError, match="neither a folder nor"):
        draw(tmp_path / "notes.txt", train, spec, tmp_path)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [([np.zeros((2, 4), np.uint8)], "2 rows"), ([np.zeros((3, 5), np.uint8)], "a chunk is"), ([np.zeros((3, 4))], "a chunk is")],
)  # fmt: skip
def test_chunks_must_make_up_the_array(tmp_path: Path, chunks: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_npz(tmp_path / "a.npz", {}, "images", (3, 4), chunks)
    assert not list(tmp_path.iterdir())
