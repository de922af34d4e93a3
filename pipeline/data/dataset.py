"""The images of a recipe, always as folders: an archive or another source is written out as folders on first use."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calib.errors import InputError
from calib.images import ImageSplit, read_split
from pipeline.data.archive import unpack_archive
from pipeline.data.sources import write_folders
from pipeline.parts.data import DataPart


def open_dataset(data: DataPart, *, unpack: bool = True) -> tuple[ImageSplit, ImageSplit]:
    """The train and val images of `data.root`.

    Where `data.root` does not exist, the images of `<root>.npz` or of `data.source` are written there first; with
    `unpack=False` that is an InputError instead.
    """
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
    train = read_split(data.root, "train")
    return train, read_split(data.root, "val", train.classes, may_lack=True)


def archive_of(data: DataPart) -> Path:
    """The npz that `data.root` is written from, where there is one."""
    root = data.root if data.root.name else data.root.resolve()  # `.` has no name of its own
    return Path(f"{root}.npz")


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
        read_split(partial, "val", read_split(partial, "train").classes, may_lack=True)
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
