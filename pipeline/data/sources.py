"""WebDataset shards and Hugging Face data sets, written out once as image folders.

Why folders: every stage picks single images. Training visits them in an order made from seed and epoch, so that it can
resume at any update; calibration and search draw subsets. A shard can only be read from its start, and several processes
would get unequal shares. Shards are read as tar files, because timm's reader drops images that it cannot decode and gives
pixels instead of files. Hugging Face data sets are read through timm's factory.
"""

import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from calib.errors import InputError
from calib.preprocess import IMAGE_SUFFIXES
from pipeline.console.figures import counted
from pipeline.console.progress import track
from pipeline.parts.data import DataPart

Item = tuple[int, bytes]  # label, the image file's bytes
_SHARD_SPLITS = ("train*.tar", "val*.tar")
_HUB_SPLITS = ("train", "validation")
CLASSES = "classes.txt"
_SUFFIXES = (  # by the first bytes of a file
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
)


def write_folders(data: DataPart, root: Path) -> None:
    """Write `root/{train,val}/<class>/<number>.<suffix>`: the source's own bytes, numbered in its order."""
    for split, chosen in zip(("train", "val"), _splits(data), strict=True):
        if data.source == "webdataset":
            shards = _find_shards(data, chosen)
            names = _class_names(Path(str(data.origin)))
            named = partial(_folder_name, names, CLASSES, f"correct {CLASSES} beside the shards")
            _write(_read_shards(shards), named, root / split, len(shards))
        else:
            _write_hub_split(data, chosen, root / split)


def _splits(data: DataPart) -> tuple[str, str]:
    return data.splits or (_SHARD_SPLITS if data.source == "webdataset" else _HUB_SPLITS)


def _find_shards(data: DataPart, pattern: str) -> list[Path]:
    folder = Path(str(data.origin))
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not found:
        present = sorted(path.name for path in folder.glob("*"))[:5] if folder.is_dir() else "no such folder"
        raise InputError(
            f"there are no shards {folder / pattern}", got=present, allowed="tar files of <key>.jpg|png… and <key>.cls",
            next_step="set data.origin to their folder, and data.splits to the patterns of train and val",
        )  # fmt: skip
    return found


def _class_names(folder: Path) -> list[str] | None:
    """The lines of `classes.txt`, one for each label; None without that file, then the classes are numbers.

    InputError where two labels have the same name: their images would be written to one folder.
    """
    path = folder / CLASSES
    if not path.is_file():
        return None
    names = path.read_text(encoding="utf-8").splitlines()
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(
            f"{path} gives several labels one name", got=", ".join(twice[:5]), allowed="a different name for each label",
            next_step=f"edit {path}",
        )  # fmt: skip
    return names


def _read_shards(shards: list[Path]) -> Iterator[Item]:
    """Every sample of every shard: the consecutive files with the same key are an image and its label."""
    for shard in shards:
        key, files = "", dict[str, bytes]()
        try:
            with tarfile.open(shard, "r|*") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    name = PurePosixPath(member.name)
                    stem, _, suffix = name.name.partition(".")  # a key ends at the first dot
                    found = str(name.parent / stem)
                    if found != key and files:
                        yield _sample(shard, key, files)
                        files = {}
                    key = found
                    content = tar.extractfile(member)
                    assert content is not None
                    files[suffix.lower()] = content.read()
        except (tarfile.TarError, EOFError) as error:
            raise InputError(f"the shard {shard} cannot be read", got=error, next_step="copy it again") from error
        if files:
            yield _sample(shard, key, files)


def _sample(shard: Path, key: str, files: dict[str, bytes]) -> Item:
    images = [suffix for suffix in files if f".{suffix}" in IMAGE_SUFFIXES]
    try:
        label = int(files["cls"]) if "cls" in files else int(json.loads(files["json"])["label"])
        if label < 0 or len(images) != 1:
            raise ValueError(f"label {label}, images {images}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"sample {key} of {shard} is not a labelled image", got=f"{sorted(files)}: {error}",
            allowed=f"one image ({', '.join(IMAGE_SUFFIXES)}) and .cls with a number, or .json with \"label\"",
            next_step="make the shard again",
        ) from error  # fmt: skip
    return label, files[images[0]]


def _folder_name(names: list[str] | None, source: str, next_step: str, label: int) -> str:
    """The folder of class `label` (0 or more). InputError, with `next_step`, where `source`, which gives the names, has
    none for it or one that cannot be a folder's."""
    if names is None:
        return f"{label:05d}"  # leading zeros keep folders sorted by name in the order of their labels
    if label >= len(names) or not fits_folder(names[label]):
        raise InputError(
            f"{source} has no usable name for label {label}",
            got=repr(names[label]) if label < len(names) else counted(len(names), "name"),
            allowed="a folder name for each label: no / in it and no . at its start", next_step=next_step,
        )  # fmt: skip
    return names[label]


def _write(items: Iterator[Item], named: Callable[[int], str], folder: Path, shards: int) -> None:
    made: set[int] = set()
    for count, (label, content) in enumerate(items):
        target = folder / named(label)
        if label not in made:
            target.mkdir(parents=True, exist_ok=True)
            made.add(label)
        (target / f"{count:08d}{_suffix(content)}").write_bytes(content)
        if count % 10_000 == 9_999:
            print(f"           {folder.name}: {counted(count + 1, 'image')} of {counted(shards, 'shard')}", flush=True)


def fits_folder(name: str) -> bool:
    """Whether a class name can be a folder's: not empty, not hidden, without separators."""
    return bool(name) and name not in (".", "..") and not name.startswith(".") and not set(name) & set("/\\\0")


def _suffix(content: bytes) -> str:
    """By the first bytes. Anything else is written as .jpg: the stage that cannot decode it will name the file."""
    return next((suffix for start, suffix in _SUFFIXES if content.startswith(start)), ".jpg")


def _write_hub_split(data: DataPart, split: str, folder: Path) -> None:
    """One split of a Hugging Face data set, through timm's reader, which gives the files' own bytes."""
    try:
        import datasets  # noqa: F401  (without it timm prints a line and raises an error that does not name it)
    except ImportError as error:
        raise InputError(
            "data.source huggingface needs the package datasets", got=data.origin, allowed="folders and webdataset work "
            "without it", next_step="pip install datasets",
        ) from error  # fmt: skip
    from timm.data import create_dataset

    image, label = data.columns
    try:
        reader = create_dataset(f"hfds/{data.origin}", root=None, split=split, input_key=image, target_key=label).reader
        if len(reader) > 0:
            reader[0][0].close()  # a missing column is an error only here
    except (TypeError, ValueError, KeyError, FileNotFoundError) as error:
        raise InputError(
            f"the Hugging Face data set {data.origin} cannot be opened", got=f"{type(error).__name__}: {error}",
            allowed=f"one with a split {split} and the columns {image} (images) and {label} (class labels)",
            next_step="set data.origin, data.splits and data.columns",
        ) from error  # fmt: skip
    found = {number: name for name, number in reader.class_to_idx.items()}
    names = [str(found[number]) for number in range(len(found))]

    def items() -> Iterator[Item]:
        for index in track(range(len(reader)), f"writing {folder}"):
            content, number = reader[index][:2]
            with content:
                yield (
                    _hub_label(number, f"image {index} of {data.origin}, split {split}, column {label}"),
                    content.read(),
                )

    next_step = "rename the class in the data set, or write image folders yourself (data.source: folders)"
    _write(items(), partial(_folder_name, names or None, f"the data set {data.origin}", next_step), folder, 1)


def _hub_label(value: object, place: str) -> int:
    """The data set's `value` as a number. InputError for -1, which means "no label" there and not the last class."""
    try:
        label = int(value)  # type: ignore[call-overload]
        if label < 0 or label != float(value):  # type: ignore[arg-type]
            raise ValueError(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{place} has no usable label", got=repr(value), allowed="the number of a class, 0 or more; -1 is an image "
            "without a label", next_step="set data.splits to splits with labels, and data.columns to the class labels",
        ) from error  # fmt: skip
    return label
