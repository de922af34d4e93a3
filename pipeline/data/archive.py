"""An archive of images, written out as folders: an npz of images with classes, or a tar of images with masks (`tar_archive`)."""

import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.images import ImageSplit
from pipeline.console.figures import counted, one_line
from pipeline.console.progress import track
from pipeline.data import tar_archive
from pipeline.data.sources import fits_folder

SPLITS = ("train", "val")
TAR = ".tar"
UNREADABLE = (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)  # what NumPy raises


def unpack_archive(archive: Path, root: Path) -> None:
    """Write `archive` out at `root`, whole or not at all: an npz as `root/{train,val}/<class>/<index>.png`."""
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
    if archive.suffix == TAR:
        tar_archive.write_out(archive, partial, root)
    else:
        _write_out(archive, partial, root)
    partial.replace(root)


def _write_out(archive: Path, partial: Path, root: Path) -> None:
    """Write the images of an npz below `partial`, which will be `root`."""
    import cv2

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


def packed_train_split(archive: Path, root: Path) -> ImageSplit:
    """The train split that `archive` holds, as far as labels or names tell: its paths are none that can be opened."""
    if archive.suffix == TAR:
        return tar_archive.packed_train_split(archive, root)
    try:
        with np.load(archive, allow_pickle=False) as content:
            classes, labels = [str(name) for name in content["classes"]], content["train_labels"].tolist()
    except UNREADABLE as error:
        raise _bad_archive(archive, one_line(str(error))) from error
    return ImageSplit(root / "train", tuple(classes), ("",) * len(labels), tuple(labels))


def _read_archive(archive: Path) -> dict[str, NDArray[np.generic]]:
    """Read and check the arrays: images (N, H, W) or RGB (N, H, W, 3) uint8, labels (N,) integers, classes (C,) text."""
    names = ("classes", *(f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")))
    try:
        with np.load(archive, allow_pickle=False) as content:
            arrays = {name: content[name] for name in names}
    except UNREADABLE as error:
        raise _bad_archive(archive, one_line(str(error))) from error
    classes = arrays["classes"]
    if classes.ndim != 1 or classes.dtype.kind != "U" or len(set(classes)) != len(classes):
        raise _bad_archive(archive, f"classes {classes.shape} {classes.dtype}, or the same name twice")
    unfit = [str(name) for name in classes if not fits_folder(str(name))]
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
            found = f"{split}: labels from {labels.min()} to {labels.max()}, {counted(len(classes), 'class')}"
            raise _bad_archive(archive, found)
    return arrays


def _bad_archive(archive: Path, got: str) -> InputError:
    return InputError(
        f"the image archive {archive} cannot be used", got=got,
        allowed="npz with {train,val}_images (N, H, W) grey or (N, H, W, 3) RGB uint8, {train,val}_labels (N,) integers, "
        "classes (C,) text",
        next_step=f"restore it (git checkout -- '{archive}'), or make it again (data/README.md)",
    )  # fmt: skip
