"""Image folders: `root/<split>/<class>/*.jpg|png…`, read in a fixed order."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from calib.errors import InputError
from calib.hidden import is_hidden
from calib.preprocess import IMAGE_SUFFIXES

Track = Callable[[range, str], Iterable[int]]  # shows how far the work titled so is


@dataclass(frozen=True)
class ImageSplit:
    """One split of an image folder: class names (sorted), images by class and name, and their labels.

    `names` of images are relative to `root`, with slashes. `left_out` names what `calib.hidden` leaves out; folders end with a
    slash.
    """

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """The images' paths. A million of them take seconds to make, which who needs names alone saves."""
        return tuple(self.root / name for name in self.names)

    @property
    def files(self) -> tuple[str, ...]:
        """All that this split is made of, named as images are: what it holds has changed where one of these has."""
        return self.names

    @property
    def class_file(self) -> Path | None:
        """The file that gives the classes their names; None where folders do."""
        return None

    @property
    def groups(self) -> tuple[int, ...]:
        """The class of each image: a balanced draw takes as many of each."""
        return self.labels

    def take(self, indices: Sequence[int]) -> "ImageSplit":
        """The images at `indices`, in their order."""
        names, labels = tuple(self.names[index] for index in indices), tuple(self.labels[index] for index in indices)
        return replace(self, names=names, labels=labels)

    def check(self, track: Track) -> tuple[str, ...]:
        """The classes that no label is of, as far as labels must be read to know. InputError where what they are read from is
        wrong; of folders nothing can be."""
        return ()

    def without_images(self) -> tuple[str, ...]:
        """The classes that have no image in this split."""
        there = set(self.labels)
        return tuple(name for label, name in enumerate(self.classes) if label not in there)


def is_utf8(name: str | os.PathLike[str]) -> bool:
    """Whether a file's name is UTF-8: of one that is not, Python keeps the other bytes as \\udc80 … \\udcff."""
    return escaped(name) == os.fspath(name)


def escaped(name: str | os.PathLike[str]) -> str:
    """A file's name as it may be printed anywhere."""
    return os.fspath(name).encode("utf-8", "backslashreplace").decode()


def refuse_unnameable(folder: Path, names: Sequence[str]) -> None:
    """InputError where `names` in `folder` are not UTF-8: what a run hashes and reports is written in it."""
    if is_utf8("/".join(names)):  # at once, as there may be a million
        return
    bad = [folder / name for name in names if not is_utf8(name)]
    raise InputError(
        f"{escaped(folder)} has names that are not UTF-8", got=f"{len(bad)}, the first: {escaped(bad[0])}",
        allowed="names of folders and images in UTF-8",
        next_step=f"rename them, such as with: convmv -r -f latin1 -t utf8 --notest '{escaped(folder)}'",
    )  # fmt: skip


def read_class_names(path: Path, key: str = "data.classes", *, folders: bool = True) -> tuple[str, ...]:
    """The lines of a file, one class each; InputError where it cannot be read, or where a name is missing, given twice or
    cannot be a folder's. `key` is what names the file to a person."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows begins files with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{key} cannot be read", got=f"{path}: {getattr(error, 'strerror', None) or error}",
            allowed="a text file, one class a line, in the order of the network's outputs", next_step=f"correct {key}",
        ) from error  # fmt: skip
    return class_names_in(text, path, folders=folders)


def class_names_in(text: str, path: Path, *, folders: bool = True) -> tuple[str, ...]:
    """The lines of the file `path`, one class each, as `read_class_names` checks them; names of `folders`, or any."""
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    twice = sorted({name for name in names if names.count(name) > 1})
    unfit = [
        f"line {number}: {name!r}" for number, name in enumerate(names, start=1)
        if not name or (folders and (name.startswith(".") or set(name) & set("/\\\0")))
    ]  # fmt: skip
    whose = "folder's " if folders else ""
    if twice or unfit or len(names) < 2:
        raise InputError(
            f"{path} does not name classes", allowed=f"at least two different names{' of folders' * folders}, one a line",
            got=f"{len(names)} lines" + (f"; twice: {', '.join(twice[:5])}" if twice else "")
            + (f"; no {whose}name: {', '.join(unfit[:5])}" if unfit else ""), next_step=f"edit {path}",
        )  # fmt: skip
    return names


def read_split(
    root: Path, split: str, classes: tuple[str, ...] | None = None, *, may_lack: bool = False
) -> ImageSplit:  # fmt: skip
    """List `root/split/<class>/<image>`; `classes` (from the checkpoint or the training split) must be the same set.

    With `may_lack`, `classes` may have no images here: no folder, or an empty one. What `calib.hidden` leaves out is listed in
    `left_out` of the result.
    """
    folder = root / split
    if not folder.is_dir():
        raise InputError(
            f"the {split} images are missing", got=f"no folder {folder}", allowed=f"{root}/{split}/<class>/*.jpg|png",
            next_step="set data.root in the recipe to a folder of that layout",
        )  # fmt: skip
    folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    found = tuple(name for name in folders if not is_hidden(name))
    left_out = [f"{name}/" for name in folders if is_hidden(name)]
    refuse_unnameable(folder, found)
    if found == ("images", "masks") and (root / "classes.txt").is_file():
        raise InputError(
            f"{folder} has images with masks", got="the folders images and masks, and classes.txt beside them",
            allowed=f"{root}/{split}/<class>/*.jpg|png", next_step="set data.task: segmentation in the recipe",
        )  # fmt: skip
    may_lack = may_lack and classes is not None
    if len(found) < 2 and not may_lack:
        raise InputError(f"{folder} needs at least two class folders", got=list(found), allowed="<class>/*.jpg|png")
    if classes is not None and (set(found) - set(classes) if may_lack else found != classes):
        raise _other_classes(folder, found, classes, may_lack)
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes or found):
        images, hidden = _list_images(folder / name)
        left_out += hidden
        if not images and not may_lack:
            raise InputError(
                "a class folder has no images", got=folder / name, allowed=", ".join(IMAGE_SUFFIXES),
                next_step=f"add images or remove the folder: rmdir '{folder / name}'",
            )  # fmt: skip
        names += images
        labels += [label] * len(images)
    if not names:
        raise InputError(
            f"no class has images in {folder}", got=f"{len(found)} class folders", allowed=", ".join(IMAGE_SUFFIXES),
            next_step=f"add images: {folder}/<class>/*.jpg|png",
        )  # fmt: skip
    refuse_unnameable(folder, names)
    return ImageSplit(folder, classes or found, tuple(names), tuple(labels), tuple(left_out))


def _other_classes(folder: Path, found: tuple[str, ...], classes: tuple[str, ...], may_lack: bool) -> InputError:
    missing = "" if may_lack else f"; missing here: {sorted(set(classes) - set(found))[:5]}"
    return InputError(
        f"{folder} has other classes than the model",
        got=f"{len(found)} classes; not in the model: {sorted(set(found) - set(classes))[:5]}{missing}",
        allowed=f"the model's {len(classes)} classes", next_step="point data.root at the images it was trained for",
    )  # fmt: skip


def _list_images(folder: Path) -> tuple[list[str], list[str]]:
    """The images in a class folder, sorted, and what is left out there, named with the folder; nothing where it is missing."""
    images, hidden = [], []
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():  # noqa: PTH208  (a million Paths take seconds)
        lower = name.lower()
        if not is_hidden(lower):
            if lower.endswith(IMAGE_SUFFIXES):
                images.append(f"{folder.name}/{name}")
        elif (folder / name).is_dir():
            hidden.append(f"{folder.name}/{name}/")
        elif lower.endswith(IMAGE_SUFFIXES):
            hidden.append(f"{folder.name}/{name}")
    return images, hidden


def balanced_subset(split: ImageSplit, count: int, seed: int) -> list[int]:
    """Indices of `count` images, as equal a number of each of `split.groups` as it divides into, drawn with `seed`; sorted."""
    if count > len(split):
        raise InputError(f"{split.root} has too few images", got=len(split), allowed=f"at least {count}")
    generator = np.random.default_rng(seed)
    labels = np.asarray(split.groups)
    pools = [list(generator.permutation(np.flatnonzero(labels == label))) for label in range(len(split.classes))]
    order = generator.permutation(len(pools))  # fewer images than classes are not those of the first classes
    chosen: list[int] = []
    while len(chosen) < count:  # one of each class in turn, so that a short class does not starve the others
        for pool in (pools[label] for label in order):
            if pool and len(chosen) < count:
                chosen.append(int(pool.pop()))
    return sorted(chosen)
