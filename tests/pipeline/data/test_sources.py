"""Shards and Hugging Face data sets as image folders: every byte, once; what is wrong in them is named."""

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calib.errors import InputError
from pipeline.data.dataset import open_dataset
from pipeline.parts.data import DataPart

Files = list[tuple[str, bytes]]


def image(seed: int, kind: str = ".png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 10, 3), dtype=np.uint8)
    return cv2.imencode(kind, pixels)[1].tobytes()


def write_tar(path: Path, files: Files) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def sample(number: int, label: int, kind: str = ".png") -> Files:
    return [(f"{number:04d}{kind}", image(number, kind)), (f"{number:04d}.cls", str(label).encode())]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Uneven shards: 5 + 2 + 1 train images, 1 + 4 val images, of three classes."""
    number = 0
    for split, counts in (("train", (5, 2, 1)), ("val", (1, 4))):
        for index, count in enumerate(counts):
            files: Files = []
            for _ in range(count):
                files += sample(number, number % 3, (".png", ".jpg")[number % 2])
                number += 1
            write_tar(tmp_path / "shards" / f"{split}-{index:03d}.tar", files)
    return tmp_path / "shards"


def part(shards: Path, splits: tuple[str, str] | None = None) -> DataPart:
    return DataPart(name="s", root=shards.parent / "images", source="webdataset", origin=str(shards), splits=splits)


def test_every_sample_of_uneven_shards_once(shards: Path) -> None:
    train, val = open_dataset(part(shards))
    assert train.classes == ("00000", "00001", "00002") and len(train) == 8 and len(val) == 5
    contents = {path.read_bytes() for split in (train, val) for path in split.paths}
    assert contents == {image(number, (".png", ".jpg")[number % 2]) for number in range(13)}, "the very bytes"
    for split in (train, val):
        for path, label in zip(split.paths, split.labels, strict=True):
            assert image(int(path.stem) + (0 if split is train else 8), path.suffix) == path.read_bytes()
            assert label == (int(path.stem) + (0 if split is train else 8)) % 3
    written = [path.stat().st_mtime_ns for path in (*train.paths, *val.paths)]
    assert open_dataset(part(shards)) == (train, val)
    assert [path.stat().st_mtime_ns for path in (*train.paths, *val.paths)] == written, "written once"


def test_names_and_json_labels(shards: Path) -> None:
    (shards / "classes.txt").write_text("cat\ndog\nfox\n")
    write_tar(
        shards / "val-001.tar",
        [("a/9.jpg", image(9, ".jpg")), ("a/9.json", b'{"label": 2}'), *sample(8, 0), *sample(7, 1)],
    )
    (shards / "val-000.tar").unlink()
    train, val = open_dataset(part(shards, ("train-*.tar", "val-001.tar")))
    assert train.classes == ("cat", "dog", "fox") and val.labels == (0, 1, 2)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("1.png", b"x")], r"sample 1 of .*train-000.tar is not a labelled image"),
        ([("1.cls", b"0")], r"not a labelled image"),
        ([("1.png", b"x"), ("1.cls", b"cat")], r"not a labelled image"),
        ([("1.png", b"x"), ("1.cls", b"-1")], r"label -1"),
        ([("1.png", b"x"), ("1.json", b"[]")], r"not a labelled image"),
    ],
)
def test_wrong_samples(shards: Path, files: Files, message: str) -> None:
    write_tar(shards / "train-000.tar", files)
    with pytest.raises(InputError, match=message):
        open_dataset(part(shards))
    assert not (shards.parent / "images").exists()


def test_wrong_shards(shards: Path) -> None:
    with pytest.raises(InputError, match=r"no shards .*other"):
        open_dataset(part(shards, ("other-*.tar", "val-*.tar")))
    (shards / "train-001.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match=r"train-001.tar cannot be read"):
        open_dataset(part(shards))
    (shards / "train-001.tar").unlink()
    (shards / "classes.txt").write_text("cat\n../dog\nfox")
    with pytest.raises(InputError, match="no usable name for label 1"):
        open_dataset(part(shards))
    (shards / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(InputError, match=r"(?s)several labels one name.*cat"):
        open_dataset(part(shards))
    assert not (shards.parent / "images").exists()


def test_hugging_face_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    data = DataPart(name="x", root=tmp_path / "images", source="huggingface", origin="beans")
    with pytest.raises(InputError, match=r"(?s)needs the package datasets.*pip install datasets"):
        open_dataset(data)


def hub_part(folder: Path, labels: dict[str, list[Any]], kind: Any) -> DataPart:
    """A local data set in Parquet, a split for each list of labels, which are of the feature `kind`."""
    import datasets

    features = datasets.Features({"picture": datasets.Image(), "kind": kind})
    (folder / "set").mkdir()
    number = 0
    for split, values in labels.items():
        pictures = [{"bytes": image(number + index), "path": None} for index in range(len(values))]
        number += len(values)
        rows = datasets.Dataset.from_dict({"picture": pictures, "kind": values}, features=features)
        rows.to_parquet(folder / "set" / f"{split}.parquet")
    return DataPart(
        name="x", root=folder / "images", source="huggingface", origin=str(folder / "set"),
        splits=("train", "test"), columns=("picture", "kind"),
    )  # fmt: skip


def test_hugging_face_folder(tmp_path: Path) -> None:
    """Through timm's factory."""
    import datasets

    labels = {"train": [0, 1, 0, 1, 0, 1], "test": [0, 1, 0]}
    train, val = open_dataset(hub_part(tmp_path, labels, datasets.ClassLabel(names=["cat", "dog"])))
    assert train.classes == ("cat", "dog") and len(train) == 6 and len(val) == 3
    found = {path.read_bytes() for split in (train, val) for path in split.paths}
    assert found == {image(number) for number in range(9)}


@pytest.mark.parametrize(
    ("test_labels", "kind", "message"),
    [
        ([0, -1], "cat dog", r"(?s)image 1 of .*split test, column kind has no usable label.*-1.*splits with labels"),
        (["cat", "dog"], "string", r"(?s)image 0 of .*split train.*no usable label.*'cat'.*data.columns"),
        ([0.0, 1.5], "float32", r"(?s)image 1 of .*split test.*no usable label.*1.5"),
        ([0, 1], "cat a/dog", r"(?s)the data set .*set has no usable name for label 1.*'a/dog'.*rename the class"),
    ],
)
def test_wrong_hugging_face_labels(tmp_path: Path, test_labels: list[Any], kind: str, message: str) -> None:
    import datasets

    feature = datasets.ClassLabel(names=kind.split()) if " " in kind else datasets.Value(kind)
    train_labels = test_labels if kind == "string" else [0, 1]
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(hub_part(tmp_path, {"train": train_labels, "test": test_labels}, feature))
    assert "classes.txt" not in str(caught.value), "this data set has none"
    assert not (tmp_path / "images").exists()


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    import datasets

    data = hub_part(tmp_path, {"train": [0, 1], "test": [0, 1]}, datasets.ClassLabel(names=["cat", "dog"]))
    for columns in (("image", "kind"), ("picture", "label")):
        with pytest.raises(InputError, match=r"(?s)cannot be opened.*data\.columns"):
            open_dataset(data.model_copy(update={"columns": columns}))


def test_what_makes_no_data_set_is_not_kept(tmp_path: Path) -> None:
    """A split with other classes is an error every time, and another split in the recipe mends it."""
    import datasets

    labels = {"train": [0, 1, 0], "test": [0, 2], "validation": [1, 0]}
    data = hub_part(tmp_path, labels, datasets.ClassLabel(names=["cat", "dog", "bird"]))
    for _ in range(2):
        with pytest.raises(InputError, match=r"(?s)huggingface .*does not make a data set.*val.*data\.splits"):
            open_dataset(data)
        assert not (tmp_path / "images").exists()
    _, val = open_dataset(data.model_copy(update={"splits": ("train", "validation")}))
    assert val.labels == (0, 1)


@pytest.mark.parametrize("values", [{"source": "webdataset"}, {"origin": "x"}, {"source": "tfds", "origin": "x"}])
def test_source_and_origin_go_together(values: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        DataPart(name="x", root=Path("x"), **values)
