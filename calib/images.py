"""Image folders: `root/<split>/<class>/*.jpg|png…`, read in a fixed order."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib.errors import InputError
from calib.preprocess import IMAGE_SUFFIXES


@dataclass(frozen=True)
class ImageSplit:
    """One split of an image folder: class names (sorted), image paths (sorted by class and name) and their labels."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Hash of relative names, sizes and modification times: changes when an image is added, removed or rewritten."""
        digest = hashlib.sha256()
        for path in self.paths:
            stat = path.stat()
            digest.update(f"{path.relative_to(self.root)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def is_utf8(name: str | os.PathLike[str]) -> bool:
    """Whether a file's name is UTF-8: of one that is not, Python keeps the other bytes as \\udc80 … \\udcff."""
    return escaped(name) == os.fspath(name)


def escaped(name: str | os.PathLike[str]) -> str:
    """A file's name as it may be printed anywhere."""
    return os.fspath(name).encode("utf-8", "backslashreplace").decode()


def refuse_unnameable(folder: Path, paths: Iterable[Path]) -> None:
    """InputError where names of `paths`, below `folder`, are not UTF-8: what a run hashes and reports is written in it."""
    bad = [path for path in paths if not is_utf8(path.relative_to(folder))]
    if bad:
        raise InputError(
            f"{escaped(folder)} has names that are not UTF-8", got=f"{len(bad)}, the first: {escaped(bad[0])}",
            allowed="names of folders and images in UTF-8",
            next_step=f"rename them, such as with: convmv -r -f latin1 -t utf8 --notest '{escaped(folder)}'",
        )  # fmt: skip


def read_split(root: Path, split: str, classes: tuple[str, ...] | None = None) -> ImageSplit:
    """List `root/split/<class>/<image>`; `classes` (from the checkpoint or the training split) must be the same set."""
    folder = root / split
    if not folder.is_dir():
        raise InputError(
            f"the {split} images are missing", got=f"no folder {folder}", allowed=f"{root}/{split}/<class>/*.jpg|png",
            next_step="set data.root in the recipe to a folder of that layout",
        )  # fmt: skip
    found = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    refuse_unnameable(folder, [folder / name for name in found])
    if len(found) < 2:
        raise InputError(f"{folder} needs at least two class folders", got=list(found), allowed="<class>/*.jpg|png")
    if classes is not None and found != classes:
        raise InputError(
            f"{folder} has other classes than the model",
            got=f"{len(found)} classes; not in the model: {sorted(set(found) - set(classes))[:5]}; "
            f"missing here: {sorted(set(classes) - set(found))[:5]}",
            allowed=f"the model's {len(classes)} classes", next_step="point data.root at the images it was trained for",
        )  # fmt: skip
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(found):
        images = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise InputError(
                "a class folder has no images", got=folder / name, allowed=", ".join(IMAGE_SUFFIXES),
                next_step=f"add images or remove the folder: rmdir '{folder / name}'",
            )  # fmt: skip
        paths += images
        labels += [label] * len(images)
    refuse_unnameable(folder, paths)
    return ImageSplit(folder, found, tuple(paths), tuple(labels))


def balanced_subset(split: ImageSplit, count: int, seed: int) -> list[int]:
    """Indices of `count` images, as equal a number of each class as it divides into, drawn with `seed`; sorted."""
    if count > len(split):
        raise InputError(f"{split.root} has too few images", got=len(split), allowed=f"at least {count}")
    generator = np.random.default_rng(seed)
    labels = np.asarray(split.labels)
    pools = [list(generator.permutation(np.flatnonzero(labels == label))) for label in range(len(split.classes))]
    order = generator.permutation(len(pools))  # fewer images than classes are not those of the first classes
    chosen: list[int] = []
    while len(chosen) < count:  # one of each class in turn, so that a short class does not starve the others
        for pool in (pools[label] for label in order):
            if pool and len(chosen) < count:
                chosen.append(int(pool.pop()))
    return sorted(chosen)
