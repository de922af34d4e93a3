"""The images of a recipe: folders, or an npz archive that is written out as folders on first use."""

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.images import ImageSplit, read_split
from pipeline.console.progress import track
from pipeline.parts.data import DataPart

SPLITS = ("train", "val")
_TAIL = 4096  # bytes: the end of a compressed image tells nearly all different images apart

Paths = tuple[Path, ...]


def open_dataset(data: DataPart, *, unpack: bool = True) -> tuple[ImageSplit, ImageSplit]:
    """The train and val images of `data.root`.

    Where `data.root` is no folder, but `data.source` says where the images are or a file `<root>.npz` stands beside it,
    these are written out as image folders first. Without `unpack` that is an InputError.
    """
    archive = data.root.with_name(f"{data.root.name}.npz")
    if not unpack and not data.root.is_dir() and (archive.is_file() or data.source != "folders"):
        origin = archive if archive.is_file() else f"{data.source} {data.origin}"
        raise InputError("the images are not unpacked yet", got=f"{origin}; a run writes them to {data.root}")
    if not data.root.is_dir() and archive.is_file():
        with _lock(archive):
            if not data.root.is_dir():  # another process may have been first
                _unpack(archive, data.root)
    if not data.root.is_dir() and data.source != "folders":
        data.root.parent.mkdir(parents=True, exist_ok=True)
        lock = data.root.with_name(f".{data.root.name}.lock")
        lock.touch()
        with _lock(lock):
            if not data.root.is_dir():
                _write_out(data)
    train = read_split(data.root, "train")
    return train, read_split(data.root, "val", train.classes)


def _write_out(data: DataPart) -> None:
    """Write `data.root` from its source, whole or not at all."""
    from pipeline.data.sources import write_folders

    partial = data.root.with_name(f"{data.root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
    write_folders(data, partial)
    _check_written(data, partial)
    partial.replace(data.root)


def _check_written(data: DataPart, partial: Path) -> None:
    """InputError where no train and val images of the same classes came out: under `data.root` they would be found
    again, whatever is then changed in the recipe."""
    try:
        read_split(partial, "val", read_split(partial, "train").classes)
    except InputError as error:
        raise InputError(
            f"{data.source} {data.origin} does not make a data set: {error.what}", got=error.got, allowed=error.allowed,
            next_step="change data.origin, data.splits or data.columns in the recipe, or mend the source",
        ) from error  # fmt: skip


def check_no_overlap(train: ImageSplit, val: ImageSplit) -> None:
    """Raise InputError when a file of `val` has the same content as one of `train`: its accuracy would be memory.

    Sizes are compared first, then the last 4 KiB, and whole files only where these agree: large sets stay cheap.
    """
    known, suspects = train.paths, val.paths
    for key in (_size, _tail_sha256, _sha256):
        known, suspects = _alike(known, suspects, key)
    if suspects:
        originals = {_sha256(path): path for path in known}
        raise InputError(
            f"{len(suspects)} val image(s) are also in train, so the measured accuracy would be too good",
            got="; ".join(f"{path} = {originals[_sha256(path)]}" for path in suspects[:3]),
            allowed="no image in both", next_step=f"remove each from one split: rm '{suspects[0]}'",
        )  # fmt: skip


def _alike(known: Paths, suspects: Paths, key: Callable[[Path], object]) -> tuple[Paths, Paths]:
    """Those of either side whose key is also on the other side."""
    if not known or not suspects:
        return (), ()
    known_keys, suspect_keys = [key(path) for path in known], [key(path) for path in suspects]
    both = set(known_keys) & set(suspect_keys)
    return (
        tuple(path for path, value in zip(known, known_keys, strict=True) if value in both),
        tuple(path for path, value in zip(suspects, suspect_keys, strict=True) if value in both),
    )


def _size(path: Path) -> int:
    return path.stat().st_size


def _tail_sha256(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return hashlib.sha256(file.read(_TAIL)).digest()


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@contextmanager
def _lock(archive: Path) -> Iterator[None]:
    """One process at a time: under torchrun all of them open the data set at once. Gone when the process is."""
    import fcntl

    with archive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpack(archive: Path, root: Path) -> None:
    """Write `archive` out as `root/{train,val}/<class>/<index>.png`, whole or not at all."""
    import cv2

    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
    arrays = _read_archive(archive)
    classes = [str(name) for name in arrays["classes"]]
    for split in SPLITS:
        for name in classes:
            (partial / split / name).mkdir(parents=True)
        labels, images = arrays[f"{split}_labels"], arrays[f"{split}_images"]
        for index in track(range(len(labels)), f"writing {root}/{split}"):
            path = partial / split / classes[labels[index]] / f"{index:06d}.png"
            image = images[index]
            if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image):
                raise OSError(f"cannot write {path}")
    partial.replace(root)


def _read_archive(archive: Path) -> dict[str, NDArray[np.generic]]:
    """Read and check the arrays: images (N, H, W) or RGB (N, H, W, 3) uint8, labels (N,) integers, classes (C,) text."""
    names = ("classes", *(f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")))
    try:
        with np.load(archive, allow_pickle=False) as content:
            arrays = {name: content[name] for name in names}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _bad_archive(archive, " ".join(str(error).split())) from error
    classes = arrays["classes"]
    if classes.ndim != 1 or classes.dtype.kind != "U" or len(set(classes)) != len(classes):
        raise _bad_archive(archive, f"classes {classes.shape} {classes.dtype}, or a name twice")
    unfit = [str(name) for name in classes if name in ("", "..") or name.startswith(".") or set(name) & set("/\\\0")]
    if unfit:
        raise _bad_archive(archive, f"class names that cannot be folders: {unfit[:5]}")
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
        fits = shaped and images.dtype == np.uint8 and labels.dtype.kind in "iu"
        if not fits or labels.shape != images.shape[:1]:
            raise _bad_archive(
                archive, f"{split}: images {images.shape} {images.dtype}, labels {labels.shape} {labels.dtype}"
            )
        if not np.isin(labels, np.arange(len(classes))).all():
            found = f"{split}: labels from {labels.min()} to {labels.max()}, {len(classes)} classes"
            raise _bad_archive(archive, found)
    return arrays


def _bad_archive(archive: Path, got: str) -> InputError:
    return InputError(
        f"the image archive {archive} cannot be used", got=got,
        allowed="npz with {train,val}_images (N, H, W) grey or (N, H, W, 3) RGB uint8, {train,val}_labels (N,) integers, "
        "classes (C,) text",
        next_step=f"restore it (git checkout -- '{archive}'), or make it again (data/README.md)",
    )  # fmt: skip
