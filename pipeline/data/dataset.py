"""The images of a recipe, always as folders: an archive or another source is written out as folders on first use."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calib.errors import InputError
from calib.images import ImageSplit
from pipeline.data.archive import TAR, unpack_archive
from pipeline.data.batches import training_split
from pipeline.data.sources import write_folders
from pipeline.parts.data import DataPart
from pipeline.tasks.task import task_named


def open_dataset(data: DataPart, *, unpack: bool = True) -> tuple[ImageSplit, ImageSplit]:
    """The train and val images of `data.root`, written there first where need be (see `make_folders`).

    With `data.classes` a class may have no images, and there may be no train images at all.
    """
    make_folders(data, unpack=unpack)
    train = training_split(data, data.class_names)
    return train, task_named(data.task).read_split(data.root, "val", train.classes, may_lack=True)


def make_folders(data: DataPart, *, unpack: bool = True) -> None:
    """Where `data.root` does not exist, write the images of its archive or of `data.source` there; with `unpack=False` that is
    an InputError instead."""
    archive = archive_of(data)
    if not unpack and is_packed(data):
        origin = archive if archive.is_file() else f"{data.source} {data.origin}"
        raise InputError("the images are not unpacked yet", got=f"{origin}; a run writes them to {data.root}")
    if not data.root.is_dir() and archive.is_file():
        with _lock(archive):
            if not data.root.is_dir():  # another process may have been first
                unpack_archive(archive, data.root)
    if not data.root.is_dir() and data.source != "folders":
        data.root.parent.mkdir(parents=True, exist_ok=True)
        lock = data.root.with_name(f".{data.root.name}.lock")
        lock.touch()
        with _lock(lock):
            if not data.root.is_dir():
                _write_out(data)


def check_train_images(train: ImageSplit) -> None:
    """InputError where there is nothing to train on."""
    if not len(train):
        raise InputError(
            "there are no images to train on", got=f"no folder {train.root}", allowed=f"{train.root}/<class>/*.jpg|png",
            next_step="add them, or set train.epochs: 0 to take the network's weights as they are",
        )  # fmt: skip


def archive_of(data: DataPart) -> Path:
    """The archive that `data.root` is written from, where there is one: `<root>.npz`, or `<root>.tar` of images with masks."""
    root = data.root if data.root.name else data.root.resolve()  # `.` has no name of its own
    tar, npz = Path(f"{root}{TAR}"), Path(f"{root}.npz")
    return tar if tar.is_file() and not npz.is_file() else npz


def is_packed(data: DataPart) -> bool:
    """Whether the first use will write `data.root`, from an archive or from `data.source`."""
    return not data.root.is_dir() and (archive_of(data).is_file() or data.source != "folders")


def _write_out(data: DataPart) -> None:
    """Write `data.root` from its source, whole or not at all."""
    partial = data.root.with_name(f"{data.root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
    write_folders(data, partial)
    _check_written(data, partial)
    partial.replace(data.root)


def _check_written(data: DataPart, partial: Path) -> None:
    """InputError unless there are train and val images, val's of classes of train. Checked before the folder becomes `data.root`:
    what is there is never written again, so a corrected recipe would go on reading the wrong images."""
    try:
        read = task_named(data.task).read_split
        train = read(partial, "train", data.class_names, may_lack=data.classes is not None)
        read(partial, "val", train.classes, may_lack=True)
    except InputError as error:
        raise InputError(
            f"{data.source} {data.origin} does not make a data set: {error.what}", got=error.got, allowed=error.allowed,
            next_step="change data.origin, data.splits or data.columns in the recipe, or correct the source",
        ) from error  # fmt: skip


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time, because under torchrun all open the data set at once. The lock ends with its process."""
    import fcntl

    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
