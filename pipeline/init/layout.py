"""Where in a person's folder the classes are, and which of its folders are train and val."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from calib.errors import InputError
from calib.hidden import is_hidden
from calib.images import refuse_unnameable
from calib.preprocess import IMAGE_SUFFIXES
from pipeline.console.figures import counted, first_names
from pipeline.data.remarks import left_out_line

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "test", "testing")  # in the order in which they are looked for
Classes = Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Layout:
    """The images of `folder` by class. `val` is None where the person made no splits.

    `ready`: a recipe can name `folder` as it is. `splits` are the names of the folders of train and val there, as far as there
    are such; `remarks` are lines of what is left out.
    """

    folder: Path
    train: Classes
    val: Classes | None
    splits: tuple[str, ...]
    ready: bool
    remarks: tuple[str, ...]

    @property
    def roots(self) -> tuple[Path, Path]:
        """The folders that hold the class folders of train and of val: the same one where there are no splits."""
        folders = [self.folder / name for name in self.splits] or [self.folder]
        return folders[0], folders[-1]


def read_layout(folder: Path) -> Layout:
    """What is in `folder`. InputError where it is missing, has no images, or not two classes of them."""
    if not folder.is_dir():
        raise InputError(
            "there is no such folder of images", got=folder,
            allowed="a folder of <class>/*.jpg|png, or of train/<class>/ and val/<class>/", next_step="check the path",
        )  # fmt: skip
    names = _folders(folder)
    _refuse_masks(folder, names)
    train = _first(folder, names, TRAIN)
    known = [name for wanted in VAL for name in names if name.lower() == wanted]
    if train is None:
        if names and all(name.lower() in (*TRAIN, *VAL) for name in names):
            raise InputError(
                f"{folder} has no train images by class", got=f"the folders {', '.join(names)}",
                allowed=f"{folder}/train/<class>/*, or {folder}/<class>/* without splits", next_step="sort the images so",
            )  # fmt: skip
        classes, remarks = _classes(folder)
        return Layout(folder, _enough(folder, classes), None, (), False, tuple(remarks))
    classes, remarks = _classes(folder / train)
    _enough(folder / train, classes)
    found = {name: _classes(folder / name) for name in known}
    val = next((name for name in known if found[name][0]), None)
    unused = [name for name in names if name not in (train, val)]
    if unused:
        remarks.append(f"not used: {', '.join(f'{folder}/{name}/' for name in unused)}")
    if val is None:
        return Layout(folder, classes, None, (train,), False, tuple(remarks))
    evaluated, more = found[val]
    _refuse_unknown(folder / val, evaluated, classes)
    ready = (
        (train, val) == ("train", "val")
        and not _nested(folder / train, classes)
        and not _nested(folder / val, evaluated)
    )
    return Layout(folder, classes, evaluated, (train, val), ready, tuple(remarks + more))


def _refuse_masks(folder: Path, names: list[str]) -> None:
    """InputError where the images have masks beside them: the folders of those are no classes."""
    masked = [
        place for place in (folder, *(folder / name for name in names)) if {"images", "masks"} <= set(_folders(place))
    ]
    if masked:
        raise InputError(
            f"{masked[0]} has images with masks, and init writes recipes for classes of images alone",
            got=f"{masked[0] / 'images'} and {masked[0] / 'masks'}", allowed="a folder for each class",
            next_step="copy recipes/segmentation.yaml, set data.root, and read docs/segmentation.md",
        )  # fmt: skip


def _first(folder: Path, names: list[str], wanted: tuple[str, ...]) -> str | None:
    """The first of `wanted` in `folder` that has class folders: one of images alone is a class, as of trains and buses."""
    found = [name for one in wanted for name in names if name.lower() == one]
    return next((name for name in found if _classes(folder / name)[0]), None)


def _folders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    refuse_unnameable(folder, names)
    return names


def _classes(folder: Path) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """The images by class, and lines of what is left out. A class is a folder right in `folder` with images in it or deeper."""
    classes: dict[str, tuple[Path, ...]] = {}
    empty, hidden = [], []
    for name in _folders(folder):
        images, left_out = _images(folder / name)
        hidden += left_out
        if images:
            classes[name] = tuple(images)
        else:
            empty.append(f"{folder / name}/")
    remarks = [left_out_line(hidden)] if hidden else []
    if empty:
        remarks.append(f"left out (no images): {first_names(empty)}")
    if loose := [name.name for name in sorted(folder.iterdir()) if _is_image(name.name)]:
        remarks.append(f"left out (in no class folder): {counted(len(loose), 'image')} of {folder} such as {loose[0]}")
    return classes, remarks


def _images(folder: Path) -> tuple[list[Path], list[str]]:
    """All images in `folder` and deeper, sorted, and the folders that are left out."""
    images: list[Path] = []
    left_out: list[str] = []
    for place, folders, files in os.walk(folder):
        left_out += [f"{place}/{name}/" for name in sorted(folders) if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        refuse_unnameable(Path(place), [*folders, *files])
        images += [Path(place) / name for name in sorted(files) if _is_image(name)]
    return images, left_out


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def _nested(folder: Path, classes: Classes) -> bool:
    """Whether an image lies deeper than its class's folder, where training does not look, or a folder there has no images."""
    return set(classes) != set(_folders(folder)) or any(
        path.parent != folder / name for name, paths in classes.items() for path in paths
    )


def _enough(folder: Path, classes: dict[str, tuple[Path, ...]]) -> Classes:
    """`classes`; InputError where they are not two."""
    if len(classes) > 1:
        return classes
    if not classes:
        loose = [path for path in folder.iterdir() if _is_image(path.name)]
        raise InputError(
            f"{folder} has no images by class" if loose else f"{folder} has no images",
            got=f"{counted(len(loose), 'image')} in no class folder" if loose else "no file " + ", ".join(IMAGE_SUFFIXES),
            allowed=f"{folder}/<class>/*.jpg|png", next_step="sort the images into a folder for each class",
        )  # fmt: skip
    (name,) = classes
    more = "add a folder of images that are something else"
    inside = [other for other in _folders(folder / name) if _images(folder / name / other)[0]]
    raise InputError(
        f"{folder} has only one class", got=f"{name}: {counted(len(classes[name]), 'image')}",
        allowed="two or more folders of images, one for each class",
        next_step=f"are they in {name}? t2t-edge init '{folder / name}'" if len(inside) > 1 else more,
    )  # fmt: skip


def _refuse_unknown(folder: Path, val: Classes, train: Classes) -> None:
    """InputError where val has a class that train has not."""
    if unknown := sorted(set(val) - set(train)):
        raise InputError(
            f"{folder} has classes that train has not", got=first_names(unknown),
            allowed=f"those of train: {first_names(sorted(train))}", next_step="rename or move their folders",
        )  # fmt: skip
