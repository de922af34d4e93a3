"""Shards and Hugging Face data sets as image folders: every byte, once; what is wrong in them is named."""

import io
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib.errors import InputError
from pipeline.dataset import open_dataset
from pipeline.recipe import DataPart

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
    again = open_dataset(part(shards))
    assert [split.fingerprint() for split in again] == [train.fingerprint(), val.fingerprint()], "written once"


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
        ([("1.png", b"x")], r"sample 1 of .*train-000.tar is no labelled image"),
        ([("1.cls", b"0")], r"no labelled image"),
        ([("1.png", b"x"), ("1.cls", b"cat")], r"no labelled image"),
        ([("1.png", b"x"), ("1.cls", b"-1")], r"label -1"),
        ([("1.png", b"x"), ("1.json", b"[]")], r"no labelled image"),
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


def test_hugging_face_folder(tmp_path: Path) -> None:
    """A local data set in Parquet, through timm's factory."""
    import datasets

    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    (tmp_path / "set").mkdir()
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        rows = {"picture": [{"bytes": image(n), "path": None} for n in numbers], "kind": [n % 2 for n in numbers]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / f"{split}.parquet")
    train, val = open_dataset(DataPart(
        name="x", root=tmp_path / "images", source="huggingface", origin=str(tmp_path / "set"),
        splits=("train", "test"), columns=("picture", "kind"),
    ))  # fmt: skip
    assert train.classes == ("cat", "dog") and len(train) == 6 and len(val) == 3
    found = {path.read_bytes() for split in (train, val) for path in split.paths}
    assert found == {image(number) for number in range(9)}


@pytest.mark.parametrize("values", [{"source": "webdataset"}, {"origin": "x"}, {"source": "tfds", "origin": "x"}])
def test_source_and_origin_go_together(values: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        DataPart(name="x", root=Path("x"), **values)
