"""A tar of images with masks becomes folders, whole or not at all, and nothing is written elsewhere."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calib.errors import InputError
from calib.images import read_split
from calib.masks import read_masked_split
from pipeline.console.progress import track
from pipeline.data.archive import packed_train_split
from pipeline.data.dataset import archive_of, is_packed, make_folders
from pipeline.parts.data import DataPart

Files = list[tuple[str, bytes]]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def files() -> Files:
    """Four train and two val images with masks."""
    generator, found = np.random.default_rng(0), [("classes.txt", b"background\ncat\n")]
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            image = generator.integers(0, 256, (8, 6, 3), dtype=np.uint8)
            found += [
                (f"{split}/images/{index}.png", png(image)),
                (f"{split}/masks/{index}.png", png(image[..., 0] % 2)),
            ]
    return sorted(found)


def write(path: Path, content: Files, *, change: Callable[[tarfile.TarInfo], None] | None = None) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in content:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            if change is not None:
                change(entry)
            archive.addfile(entry, io.BytesIO(data))


@pytest.fixture
def data(tmp_path: Path) -> DataPart:
    write(tmp_path / "scenes.tar", files())
    return DataPart(name="scenes", root=tmp_path / "scenes")


def test_a_tar_becomes_folders(data: DataPart) -> None:
    assert archive_of(data) == data.root.with_name("scenes.tar") and is_packed(data)
    with pytest.raises(InputError, match=r"(?s)not unpacked yet.*scenes.tar"):
        make_folders(data, unpack=False)
    make_folders(data)
    written = {path.relative_to(data.root).as_posix(): path.read_bytes() for path in data.root.rglob("*.*")}
    assert written == dict(files()) and not is_packed(data)
    train, val = read_masked_split(data.root, "train"), read_masked_split(data.root, "val")
    train.check(track)
    assert (len(train), len(val)) == (4, 2) and not data.root.with_name("scenes.partial").exists()
    data.root.with_name("scenes.tar").write_bytes(b"no longer needed")
    make_folders(data)


def test_an_npz_of_the_same_name_goes_first(data: DataPart) -> None:
    data.root.with_name("scenes.npz").write_bytes(b"")
    assert archive_of(data).name == "scenes.npz"


def test_a_tar_made_by_hand_has_folders_and_dots(data: DataPart, tmp_path: Path) -> None:
    make_folders(data)
    with tarfile.open(tmp_path / "copy.tar", "w") as archive:
        archive.add(data.root, ".")
    copy = DataPart(name="copy", root=tmp_path / "copy")
    make_folders(copy)
    assert read_masked_split(copy.root, "train").names == read_masked_split(data.root, "train").names


def test_the_packed_split_says_how_many_there_are(data: DataPart) -> None:
    split = packed_train_split(archive_of(data), data.root)
    assert len(split) == 4 and split.classes == ("background", "cat") and split.root == data.root / "train"
    assert not data.root.exists()
    write(archive_of(data), files()[1:])
    with pytest.raises(InputError, match=r"no classes\.txt"):
        packed_train_split(archive_of(data), data.root)


def test_an_interrupted_unpacking_starts_again(data: DataPart, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(members: list[Any], title: str) -> Any:
        yield from members[:5]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.tar_archive.track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_folders(data)
    assert not data.root.exists(), "half a data set must not look like a whole one"
    stray = data.root.with_name("scenes.partial") / "train" / "images" / "stray.png"
    assert stray.parent.is_dir()
    stray.write_bytes(b"from another archive")
    make_folders(data)
    assert not list(data.root.rglob("stray.png")) and len(read_masked_split(data.root, "train")) == 4


def test_images_with_masks_are_no_class_folders(data: DataPart) -> None:
    make_folders(data)
    with pytest.raises(InputError, match=r"(?s)has images with masks.*data.task: segmentation"):
        read_split(data.root, "train")


def without(name: str) -> Files:
    return [(other, content) for other, content in files() if other != name]


BAD_CONTENT: list[tuple[Files, str]] = [
    ([], "not named: no file .*classes.txt"),
    (without("classes.txt"), "not named: no file .*classes.txt"),
    (without("val/masks/1.png"), "1 of 2 images .*no mask: 1.png"),
    ([file for file in files() if not file[0].startswith("val")], "val images are missing"),
    ([*files(), ("../outside.png", b"x")], "leads out of its folder: '../outside.png'"),
    ([*files(), ("train/../../outside.png", b"x")], "leads out of its folder"),
    ([*files(), ("/outside.png", b"x")], "leads out of its folder: '/outside.png'"),
    ([*files(), ("train\\outside.png", b"x")], "leads out of its folder"),
    ([*files(), ("train/images/0.png", b"x")], "two entries for one file: train/images/0.png"),
    ([*files(), ("./train/images/0.png", b"x")], "two entries for one file: train/images/0.png"),
    ([*files(), ("train/images/0.png/x.png", b"x")], "two entries for one file: train/images/0.png/x.png"),
]


@pytest.mark.parametrize(("content", "message"), BAD_CONTENT)
def test_a_tar_of_other_files(data: DataPart, content: Files, message: str) -> None:
    write(archive_of(data), content)
    with pytest.raises(InputError, match=f"(?s)cannot be used.*{message}"):
        make_folders(data)
    assert not data.root.exists() and not list(data.root.parent.rglob("outside.png"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices(data: DataPart, kind: bytes) -> None:
    def change(entry: tarfile.TarInfo) -> None:
        if entry.name == "val/masks/1.png":
            entry.type, entry.linkname, entry.size = kind, "classes.txt", 0

    write(archive_of(data), files(), change=change)
    for use in (make_folders, lambda data: packed_train_split(archive_of(data), data.root)):
        with pytest.raises(InputError, match=r"a link or device: 'val/masks/1\.png'"):
            use(data)
    assert not data.root.exists()


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(len(whole) * share) // 512 * 512 + 7]


BAD_BYTES: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda whole: b"", "empty file"),
    (lambda whole: b"no tar" * 300, "invalid header|truncated header"),
    (_cut(0.02), ""),
    (_cut(0.5), ""),
    (lambda whole: whole.rstrip(b"\0")[: len(whole.rstrip(b"\0")) // 512 * 512], ""),
    (lambda whole: whole[:5120] + b"\xff" * 512 + whole[5632:], "cut off or changed"),
    (lambda whole: whole[: whole.index(b"val/images/1.png")], "cut off or changed"),
]


@pytest.mark.parametrize(("change", "message"), BAD_BYTES)
def test_a_damaged_tar(data: DataPart, change: Callable[[bytes], bytes], message: str) -> None:
    archive = archive_of(data)
    archive.write_bytes(change(archive.read_bytes()))
    for use in (make_folders, lambda data: packed_train_split(archive, data.root)):
        with pytest.raises(InputError, match=f"(?s)cannot be used.*({message})"):
            use(data)
    assert not data.root.exists()
