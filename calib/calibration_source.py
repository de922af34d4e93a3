"""Where calibration images come from: the training split, a folder, or an npz of images; and a seeded draw from it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib.errors import InputError
from calib.hidden import hidden_part, is_hidden
from calib.image_array import UNKNOWN, open_images, unreadable
from calib.images import ImageSplit, Track, balanced_subset, refuse_unnameable
from calib.npz import UNREADABLE, StoredArray
from calib.preprocess import IMAGE_SUFFIXES, Image, Preprocess, load_image, preprocess

DEFAULT_IMAGES = 512  # or all there are, where that is fewer
_SHOWN = 5  # examples in a message


def silent(items: range, title: str) -> Iterable[int]:
    """Shows no progress: what a caller without a terminal passes."""
    return items


@dataclass(frozen=True)
class FileDraw:
    """Image files in order, their names and their labels; `left_out` as `ImageSplit` has it."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()

    def images(self, spec: Preprocess, rows: int, track: Track) -> Iterator[Image]:
        """The images preprocessed, `rows` at a time; those that cannot be decoded are all named in one InputError."""
        damaged: list[InputError] = []
        for start in track(range(0, len(self.files), rows), "calibration images"):
            chunk = []
            for file in self.files[start : start + rows]:
                try:
                    chunk.append(preprocess(load_image(file), spec))
                except InputError as error:
                    damaged.append(error)
            if chunk:
                yield np.stack(chunk)
        if damaged:
            raise InputError(
                f"{len(damaged)} of {len(self.files)} calibration images cannot be decoded",
                got="; ".join(str(error.got) for error in damaged[:_SHOWN]) + ("; …" if len(damaged) > _SHOWN else ""),
                allowed=", ".join(IMAGE_SUFFIXES),
                next_step=f"replace or delete them, the first: {str(damaged[0].next_step).partition(': ')[2]}",
            )


@dataclass(frozen=True)
class ArrayDraw:
    """Rows (rising) of the images in an npz, which are preprocessed already, their names and their labels."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    stored: StoredArray
    rows: tuple[int, ...]
    files: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()

    def images(self, spec: Preprocess, rows: int, track: Track) -> Iterator[Image]:
        """The drawn rows, at most `rows` at a time."""
        wanted, start = np.asarray(self.rows), 0
        chunks = self.stored.chunks(rows)
        for _ in track(range(0, len(self.stored), rows), "calibration images"):
            try:
                chunk = next(chunks)
            except UNREADABLE as error:
                raise unreadable(self.stored.path, error) from error
            inside = wanted[(wanted >= start) & (wanted < start + len(chunk))] - start
            start += len(chunk)
            if inside.size:
                yield chunk[inside]


Draw = FileDraw | ArrayDraw


def draw_calibration_images(
    source: Path | None, train: ImageSplit, spec: Preprocess, count: int | None, seed: int
) -> Draw:  # fmt: skip
    """Draw `count` images from `source`, or from the training split where it is None; always the same for one seed.

    Without a `count`: DEFAULT_IMAGES, or all there are where that is fewer. InputError where `count` is more than there are.
    """
    if source is None:
        return draw_from_split(train, count, seed)
    if source.is_dir():
        return _draw_from_folder(source, train, count, seed)
    if source.suffix == ".npz" and source.is_file():
        return _draw_from_npz(source, train, spec, count, seed)
    found = "neither a folder nor an .npz" if source.exists() else "no such file or folder"
    raise InputError(
        "calibrate.source cannot be used", got=f"{source}: {found}",
        allowed="a folder of images, with or without class folders, or an .npz with `images`, uint8 RGB (N, H, W, 3)",
        next_step="set calibrate.source in the recipe, or leave it out to draw from the training images",
    )  # fmt: skip


def source_files(source: Path) -> tuple[str, ...]:
    """The names, relative to it, of the images in a source that is a folder."""
    return tuple(_all_images(source)[0])


def draw_from_split(split: ImageSplit, count: int | None, seed: int) -> FileDraw:
    """`count` images as equal a number of each class as it divides into; without a `count` see `draw_calibration_images`."""
    return _files(split, balanced_subset(split, _wanted(split.root, len(split), count), seed))


def _draw_from_folder(source: Path, train: ImageSplit, count: int | None, seed: int) -> FileDraw:
    """Class-balanced where the folders are the model's classes; otherwise any images below, without labels."""
    classes = train.classes
    folders = {entry.name for entry in source.iterdir() if entry.is_dir() and not is_hidden(entry.name)}
    names, left_out = _all_images(source)
    if not folders & set(classes):
        split = ImageSplit(source, classes, tuple(names), (UNKNOWN,) * len(names), left_out)
        return _files(split, _seeded(len(names), _wanted(source, len(names), count), seed))
    if folders - set(classes):
        raise InputError(
            f"{source} has other classes than the model",
            got=f"{len(folders & set(classes))} folders named as classes, and {sorted(folders - set(classes))[:_SHOWN]}",
            allowed=f"the model's {len(classes)} classes, or no folder named as a class (images without labels)",
            next_step="rename or remove these folders, or put all images into one folder",
        )  # fmt: skip
    names = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = _images_in(source / name) if name in folders else []
        names += images
        labels += [label] * len(images)
    split = ImageSplit(source, classes, tuple(names), tuple(labels), left_out)
    if missing := _could_be_there(split.without_images(), train):
        raise _missing_classes(str(source), missing, len(classes))
    return draw_from_split(split, count, seed)


def _draw_from_npz(
    source: Path, train: ImageSplit, spec: Preprocess, count: int | None, seed: int
) -> ArrayDraw:  # fmt: skip
    classes = train.classes
    stored, labels = open_images(source, len(classes), spec)
    count = _wanted(source, len(stored), count)
    if labels is None:
        chosen = _seeded(len(stored), count, seed)
        return ArrayDraw(_row_names(source, chosen), (UNKNOWN,) * count, stored, tuple(chosen))
    lacking = [name for label, name in enumerate(classes) if not (labels == label).any()]
    if missing := _could_be_there(lacking, train):
        raise _missing_classes(str(source), missing, len(classes))
    nowhere = ("",) * len(labels)  # a balanced draw needs labels only
    chosen = balanced_subset(ImageSplit(source, classes, nowhere, tuple(labels.tolist())), count, seed)
    return ArrayDraw(_row_names(source, chosen), tuple(int(labels[row]) for row in chosen), stored, tuple(chosen))


def _could_be_there(lacking: Sequence[str], train: ImageSplit) -> list[str]:
    """Of the classes that a source lacks, those that the recipe's own images have: it may name more (`data.classes`)."""
    nowhere = set(train.without_images())
    return [name for name in lacking if name not in nowhere]


def _row_names(source: Path, rows: list[int]) -> tuple[str, ...]:
    return tuple(f"{source.name}[{row}]" for row in rows)


def _files(split: ImageSplit, chosen: list[int]) -> FileDraw:
    names = tuple(split.names[index] for index in chosen)
    files = tuple(split.root / name for name in names)
    return FileDraw(names, tuple(split.labels[index] for index in chosen), files, split.left_out)


def _seeded(available: int, count: int, seed: int) -> list[int]:
    return sorted(int(index) for index in np.random.default_rng(seed).permutation(available)[:count])


def _images_in(folder: Path) -> list[str]:
    """The images of a class folder, sorted, named with the folder."""
    found = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    names = [f"{folder.name}/{name}" for name in found if not is_hidden(name)]
    refuse_unnameable(folder.parent, names)
    return names


def _all_images(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """The images below `folder`, sorted, and what is left out, as `ImageSplit` names them."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    places = [path.relative_to(folder) for path in found]
    hidden = [hidden_part(place) for place in places]
    names = [place.as_posix() for place, part in zip(places, hidden, strict=True) if part is None]
    refuse_unnameable(folder, names)
    return names, tuple(dict.fromkeys(part for part in hidden if part is not None))


def _wanted(where: Path, available: int, count: int | None) -> int:
    """How many images to draw of those `available` at `where`; InputError where there are fewer than `count`, or none."""
    wanted = max(1, min(DEFAULT_IMAGES, available)) if count is None else count
    if available < wanted:
        asked = f"at least the {count} that calibrate.images asks for" if count else "images"
        raise InputError(
            f"{where} has too few images for calibration", got=f"{available} images", allowed=asked,
            next_step=f"set calibrate.images: {available} in the recipe, or add images" if available else "add images",
        )  # fmt: skip
    return wanted


def _missing_classes(where: str, missing: list[str], classes: int) -> InputError:
    return InputError(
        f"{len(missing)} of the model's {classes} classes have no calibration image",
        got=f"{where}: nothing of {', '.join(missing[:_SHOWN])}{', …' if len(missing) > _SHOWN else ''}",
        allowed="images of every class, or images without labels",
        next_step="add images of these classes, or leave the class folders and labels away",
    )
