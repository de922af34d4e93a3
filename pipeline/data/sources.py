"""WebDataset shards and Hugging Face data sets, written out as image folders once.

Every stage reads images by name: training in an order that follows from seed and epoch, so that it can go on from any
update and count every validation image once; calibration, search and evaluation by choice. Shards are streams, whose
shares of several processes are uneven. timm's reader of shards also leaves out what it cannot decode and gives pixels, not
files; hence shards are read as what they are, tar files. Hugging Face data sets come through timm's factory.
"""

import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from calib.errors import InputError
from calib.preprocess import IMAGE_SUFFIXES
from pipeline.console.progress import track
from pipeline.parts.data import DataPart

Item = tuple[int, bytes]  # label, the image file's bytes
_SHARD_SPLITS = ("train*.tar", "val*.tar")
_HUB_SPLITS = ("train", "validation")
CLASSES = "classes.txt"
_KINDS = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
)


def write_folders(data: DataPart, root: Path) -> None:
    """Write `root/{train,val}/<class>/<number>.<kind>`: the very bytes of the source, in its order."""
    for split, chosen in zip(("train", "val"), _splits(data), strict=True):
        if data.source == "webdataset":
            shards = _find_shards(data, chosen)
            names = _class_names(Path(str(data.origin)))
            named = partial(_folder_name, names, CLASSES, f"mend {CLASSES} beside the shards")
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
    """A line for each label of `classes.txt`; without that file, classes are called by their numbers.

    InputError for a name that two labels have: their images would come into one folder.
    """
    path = folder / CLASSES
    if not path.is_file():
        return None
    names = path.read_text(encoding="utf-8").splitlines()
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(
            f"{path} gives several labels one name", got=", ".join(twice[:5]), allowed="a name of its own for each label",
            next_step=f"mend {path}",
        )  # fmt: skip
    return names


def _read_shards(shards: list[Path]) -> Iterator[Item]:
    """Every sample of every shard: the files of one key, which stand together, are an image and its label."""
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
            f"sample {key} of {shard} is no labelled image", got=f"{sorted(files)}: {error}",
            allowed=f"one image ({', '.join(IMAGE_SUFFIXES)}) and .cls with a number, or .json with \"label\"",
            next_step="make the shard again",
        ) from error  # fmt: skip
    return label, files[images[0]]


def _folder_name(names: list[str] | None, source: str, mend: str, label: int) -> str:
    """What the class `label` (0 or more) is called. InputError where `source`, which gives the names, has none that
    fits a folder; `mend` says what to do then."""
    if names is None:
        return f"{label:05d}"  # of one width, so that folders sorted by name are in the order of labels
    if label >= len(names) or not _fits(names[label]):
        raise InputError(
            f"{source} has no usable name for label {label}",
            got=repr(names[label]) if label < len(names) else f"{len(names)} names",
            allowed="a name for each label, fit for a folder: no / in it and no . at its start", next_step=mend,
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
            print(f"           {folder.name}: {count + 1} images of {shards} shard(s)", flush=True)


def _fits(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not name.startswith(".") and not set(name) & set("/\\\0")


def _suffix(content: bytes) -> str:
    """By the first bytes; what is none of these is written as .jpg, and named by whoever cannot decode it."""
    return next((suffix for start, suffix in _KINDS if content.startswith(start)), ".jpg")


def _write_hub_split(data: DataPart, split: str, folder: Path) -> None:
    """One split of a Hugging Face data set, through timm's reader, which gives the files' own bytes."""
    try:
        import datasets  # noqa: F401  (timm's message would be a print and a traceback)
    except ImportError as error:
        raise InputError(
            "data.source huggingface needs the package datasets", got=data.origin, allowed="folders and webdataset go "
            "without it", next_step="pip install datasets",
        ) from error  # fmt: skip
    from timm.data import create_dataset

    image, label = data.columns
    try:
        reader = create_dataset(f"hfds/{data.origin}", root=None, split=split, input_key=image, target_key=label).reader
        if len(reader) > 0:
            reader[0][0].close()  # a column that is not there is found out only here
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

    mend = "rename the class in the data set, or write image folders yourself (data.source: folders)"
    _write(items(), partial(_folder_name, names or None, f"the data set {data.origin}", mend), folder, 1)


def _hub_label(value: object, place: str) -> int:
    """A label as the data set has it, as a number. -1 is the hub's word for none: it must not become the last class."""
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
