"""A folder `{train,val}/<class>/*` of hard links: the person's images, arranged, without a copy and without touching them.

Why hard links: each is a file like any other, so training, moving, archiving and copying to another machine need nothing new,
and renaming or deleting the person's folder takes nothing away. Links by name would break there, and lists of paths as well.
They need one file system and the right to link; where one is missing, images are copied.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from calib.errors import InputError
from pipeline.console.figures import megabytes
from pipeline.console.progress import track
from pipeline.init.layout import Classes

Plan = list[tuple[Path, Path]]  # an image, and its relative place in the new folder


def plan_links(train: Classes, train_root: Path, val: Classes, val_root: Path) -> Plan:
    """Each image and where it goes; of `train_root`, `cat/old/1.jpg` becomes `train/cat/old__1.jpg`."""
    return [
        (path, Path(split, name, place))
        for split, classes, root in (("train", train, train_root), ("val", val, val_root))
        for name, paths in classes.items()
        for path, place in zip(paths, _names(paths, root / name), strict=True)
    ]


def is_there(target: Path, plan: Plan) -> bool:
    """Whether `target` is what an earlier call made of the same plan."""
    if not target.is_dir():
        return False
    there = {path.relative_to(target): path.stat().st_size for path in target.rglob("*") if path.is_file()}
    return there == {place: path.stat().st_size for path, place in plan}


def write_links(target: Path, plan: Plan) -> int:
    """Make `target`, whole or not at all; the bytes that had to be copied. InputError where it is there or cannot be written."""
    if os.path.lexists(target):
        raise InputError(
            "the folder for the splits is there already", got=f"{target}, with other images than init would put there",
            allowed="a name that is free: nothing is overwritten",
            next_step=f"--split OTHER, or remove it: rm -r '{target}' (it holds links and copies; your images stay)",
        )  # fmt: skip
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted command
        for folder in {place.parent for _, place in plan}:
            (partial / folder).mkdir(parents=True)
        copied = sum(_link(*plan[index], partial) for index in track(range(len(plan)), f"writing {target}"))
        partial.replace(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            "the splits cannot be written", got=f"{target}: {error.strerror or error}",
            allowed="a place where this user may write, with room for copies if it is another disk",
            next_step="--split FOLDER names another place",
        ) from error  # fmt: skip
    return copied


def how(copied: int) -> str:
    """What the new folder costs, in words."""
    return (
        f"{megabytes(copied)} MB of copies, as hard links are not possible there" if copied else "hard links, no copies"
    )


def _names(paths: tuple[Path, ...], folder: Path) -> Iterator[str]:
    """A file name of its own for each image of a class, whose folder this is."""
    used: set[str] = set()
    for path in paths:
        flat = "__".join(path.relative_to(folder).parts)
        free, number = flat, 2
        while free.lower() in used:
            free, number = f"{Path(flat).stem}_{number}{Path(flat).suffix}", number + 1
        used.add(free.lower())
        yield free


def _link(source: Path, place: Path, folder: Path) -> int:
    """Link, else copy; the bytes copied."""
    try:
        os.link(source.resolve(), folder / place)
    except OSError:
        shutil.copy2(source, folder / place)
        return (folder / place).stat().st_size
    return 0
