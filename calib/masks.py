"""Images with masks: `root/<split>/images/*.jpg|png…`, `root/<split>/masks/<same name>.png`, and `root/classes.txt`.

A mask is a PNG of its image's size, whose values are class indices: of grey levels or of a palette, of up to 8 bits. Pixels of
`IGNORED` have no class.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.hidden import is_hidden
from calib.image_array import UNKNOWN
from calib.images import ImageSplit, Track, read_class_names, refuse_unnameable
from calib.preprocess import IMAGE_SUFFIXES, Mask, Preprocess, decode_levels, load_image, preprocess_mask, read_bytes

IGNORED = 255
CLASS_FILE = "classes.txt"
_SHOWN = 3  # examples in a message
_PNG = b"\x89PNG\r\n\x1a\n"
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}  # PNG specification, 11.2.2
_LAYOUT = "images/*.jpg|png, masks/<same name>.png"


@dataclass(frozen=True)
class MaskedSplit(ImageSplit):
    """Images whose labels are masks. `labels` are all UNKNOWN, as an image has no class of its own; `masks`, one for each image,
    are relative to `root`, as `names` are."""

    masks: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Images and masks."""
        return self.names + self.masks

    @property
    def class_file(self) -> Path | None:
        """`root/classes.txt`."""
        return self.root.parent / CLASS_FILE

    @property
    def groups(self) -> tuple[int, ...]:
        """All one: which classes a mask holds is not known before it is read, so draws are only seeded."""
        return (0,) * len(self.names)

    def take(self, indices: Sequence[int]) -> "MaskedSplit":
        """The images at `indices`, in their order, with their masks."""
        images = super().take(indices)
        masks = tuple(self.masks[index] for index in indices)
        return replace(self, names=images.names, labels=images.labels, masks=masks)

    def check(self, track: Track) -> tuple[str, ...]:
        """The classes that are in no mask. InputError that names the masks that are damaged, not of their image's size, or of
        other indices than classes; or where they say nothing together."""
        errors: list[InputError] = []
        seen = np.zeros(256, dtype=np.int64)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            tasks = [pool.submit(self._look_at, index) for index in range(len(self))]
            try:
                for index in track(range(len(self)), f"checking the masks in {self.root}"):
                    found = tasks[index].result()
                    if isinstance(found, InputError):
                        errors.append(found)
                    else:
                        seen += found
            finally:
                pool.shutdown(cancel_futures=True)
        if errors:
            first = errors[0]
            more = f" ({len(errors):,} of {len(self):,} masks in {self.root} are wrong)" if len(errors) > 1 else ""
            got = "; ".join(str(error.got) for error in errors[:_SHOWN]) + ("; …" if len(errors) > _SHOWN else "")
            raise InputError(first.what + more, got=got, allowed=first.allowed, next_step=first.next_step)
        self._check_together(seen)
        return tuple(name for index, name in enumerate(self.classes) if not seen[index])

    def _check_together(self, seen: NDArray[np.int64]) -> None:
        """`seen` counts the pixels of each value in all masks."""
        there = np.flatnonzero(seen[:IGNORED])
        if not len(there) or (seen[IGNORED] and there.tolist() == [0]):
            raise InputError(
                f"the masks in {self.root / 'masks'} show no class" + (" but the first" if len(there) else ""),
                got=f"values {', '.join(map(str, np.flatnonzero(seen)))}",
                allowed=f"class indices, 0 to {len(self.classes) - 1}; {IGNORED} is for pixels that do not count",
                next_step="where 255 means a class, as in black and white masks, write that class's index: 1",
            )  # fmt: skip

    def without_images(self) -> tuple[str, ...]:
        """None: which classes no mask holds is known when masks are read (`missing_classes`)."""
        return ()

    def _look_at(self, index: int) -> InputError | NDArray[np.int64]:
        """What is wrong with one mask, or how many pixels it has of each value, (256,)."""
        try:
            mask = read_mask(self, index, load_image(self.root / self.names[index]).shape[:2])
        except InputError as error:
            return error
        return np.bincount(mask.ravel(), minlength=256)


def read_masked_split(
    root: Path, split: str, classes: tuple[str, ...] | None = None, *, may_lack: bool = False
) -> MaskedSplit:  # fmt: skip
    """List `root/split/images` and `root/split/masks`; `classes` (from the checkpoint) must be those of `root/classes.txt`.

    InputError where the layout is another, an image has no mask, or two images share one. What the masks hold is not looked at
    (`MaskedSplit.check`), so a class may always lack: `may_lack` makes no difference, and is there because `read_split` has it.
    """
    folder, found = root / split, _read_classes(root)
    if classes is not None and found != classes:
        raise InputError(
            f"{root / CLASS_FILE} has other classes than the model", got=_shown_classes(found),
            allowed=f"the model's, in their order: {_shown_classes(classes)}",
            next_step="point data.root at the images it was trained for",
        )  # fmt: skip
    for name in ("images", "masks"):
        if not (folder / name).is_dir():
            raise InputError(
                f"the {split} {name} are missing", got=f"no folder {folder / name}",
                allowed=f"{root}/{CLASS_FILE} and {folder}/{{{_LAYOUT}}}",
                next_step="set data.root in the recipe to a folder of that layout",
            )  # fmt: skip
    images, hidden_images = _list_files(folder / "images", IMAGE_SUFFIXES)
    masks, hidden_masks = _list_files(folder / "masks", (".png",))
    if not images:
        raise InputError(
            f"there are no images in {folder / 'images'}", got=f"{len(masks)} masks", allowed=", ".join(IMAGE_SUFFIXES),
            next_step=f"add images: {folder}/images/*.jpg|png",
        )  # fmt: skip
    names = tuple(f"images/{name}" for name in images)
    paired = tuple(f"masks/{name}" for name in _paired(folder, images, masks))
    left_out = tuple(f"images/{name}" for name in hidden_images) + tuple(f"masks/{name}" for name in hidden_masks)
    return MaskedSplit(folder, found, names, (UNKNOWN,) * len(names), left_out, paired)


def read_mask(split: MaskedSplit, index: int, size: Sequence[int] | None = None) -> Mask:
    """The mask of one image as it is stored, uint8 (H, W). InputError where it is damaged, holds an index that is neither a class
    nor IGNORED, or is not of `size` (H, W), its image's."""
    path = split.root / split.masks[index]
    mask = decode_mask(read_bytes(path), path)
    if size is not None and mask.shape != tuple(size):
        raise InputError(
            "a mask has another size than its image",
            got=f"{path}: {mask.shape[1]}×{mask.shape[0]}, its image {size[1]}×{size[0]}",
            allowed="masks of their images' sizes, as the images are seen: turned as their EXIF says",
            next_step=f"make the mask again from the image: '{split.root / split.names[index]}'",
        )  # fmt: skip
    count = len(split.classes)
    there = np.flatnonzero(np.bincount(mask.ravel(), minlength=1))
    wrong = there[(there >= count) & (there != IGNORED)].tolist()
    if wrong:
        raise InputError(
            "a mask holds an index that is no class", got=f"{path}: {', '.join(map(str, wrong[:_SHOWN]))}",
            allowed=f"0 … {count - 1}, the lines of {split.class_file}, or {IGNORED} for pixels that do not count",
            next_step=f"add the classes to {split.class_file}, or set these pixels to {IGNORED}",
        )  # fmt: skip
    return mask


def load_masks(split: MaskedSplit, chosen: slice | Sequence[int], spec: Preprocess) -> NDArray[np.uint8]:
    """The masks of the `chosen` images, preprocessed as the images are: uint8 (n, spec.height, spec.width), IGNORED where a pixel
    has no class."""
    indices = range(len(split))[chosen] if isinstance(chosen, slice) else chosen
    masks = [preprocess_mask(read_mask(split, index), spec) for index in indices]
    return np.stack(masks) if masks else np.zeros((0, spec.height, spec.width), np.uint8)


def missing_classes(masks: NDArray[np.uint8], classes: Sequence[str]) -> tuple[str, ...]:
    """The classes that no pixel of `masks` is of."""
    there = set(np.flatnonzero(np.bincount(masks.ravel(), minlength=1)).tolist())
    return tuple(name for index, name in enumerate(classes) if index not in there)


def _read_classes(root: Path) -> tuple[str, ...]:
    path = root / CLASS_FILE
    if not path.is_file():
        raise InputError(
            "the classes of the masks are not named", got=f"no file {path}",
            allowed="a text file, one class a line: line 1 is index 0",
            next_step=f"write {path}, or set data.root in the recipe to the folder that has it",
        )  # fmt: skip
    names = read_class_names(path, str(path), folders=False)
    if len(names) > IGNORED:
        raise InputError(
            f"{path} has more classes than a mask can tell apart", got=len(names), allowed=f"at most {IGNORED}",
            next_step="join classes",
        )  # fmt: skip
    return names


def _shown_classes(names: Sequence[str]) -> str:
    return f"{len(names)} classes, {', '.join(names[:5])}" + (", …" if len(names) > 5 else "")


def _list_files(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The names of the files of these suffixes, sorted, and of those that are left out; of folders only these, with a slash."""
    found, hidden = [], []
    for name in sorted(os.listdir(folder)):  # noqa: PTH208  (a million Paths take seconds)
        lower = name.lower()
        if not is_hidden(name):
            if lower.endswith(suffixes):
                found.append(name)
        elif (folder / name).is_dir():
            hidden.append(f"{name}/")
        elif lower.endswith(suffixes):
            hidden.append(name)
    refuse_unnameable(folder, found)
    return found, hidden


def _paired(folder: Path, images: Sequence[str], masks: Sequence[str]) -> list[str]:
    """The mask of each image; InputError where one has none, or shares it with another."""
    by_stem: dict[str, str] = {}
    for name in masks:
        other = by_stem.setdefault(_stem(name), name)
        if other != name:
            raise InputError(
                f"two masks in {folder / 'masks'} are of one image", got=f"{other} and {name}", allowed="one mask for each image",
                next_step="move one away",
            )  # fmt: skip
    without = [name for name in images if _stem(name) not in by_stem]
    if without:
        raise InputError(
            f"{len(without):,} of {len(images):,} images in {folder / 'images'} have no mask",
            got=", ".join(without[:_SHOWN]) + (", …" if len(without) > _SHOWN else ""),
            allowed=f"for each a file in {folder / 'masks'}, such as {_stem(without[0])}.png",
            next_step="add the masks, or move these images away",
        )  # fmt: skip
    first: dict[str, str] = {}
    for name in images:
        other = first.setdefault(_stem(name), name)
        if other != name:
            raise InputError(
                f"two images in {folder / 'images'} have one mask", got=f"{other} and {name}",
                allowed="one image for each mask: names that differ before the suffix", next_step="rename one, and its mask",
            )  # fmt: skip
    return [by_stem[_stem(name)] for name in images]


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


# --- a mask's file ----------------------------------------------------------------------------------------------------


def decode_mask(data: NDArray[np.uint8], path: Path) -> Mask:
    """The class indices (H, W) in a PNG's bytes (n,): its grey levels, or the indices of its palette, as they are stored.

    InputError, which names `path`, where it is damaged, no PNG, or not of one channel of at most 8 bits. OpenCV would give a
    palette's colours, and stretch levels of 1, 2 or 4 bits to 0 … 255: the head is rewritten to grey, and levels divided again.
    """
    bits, colour, plain = _as_grey(data.tobytes(), path)
    if colour not in (0, 3) or bits > 8:
        raise InputError(
            "a mask does not hold a class index for each pixel",
            got=f"{path}: {bits} bits, {_COLOURS.get(colour, f'colour type {colour}')}",
            allowed="a PNG of one channel of 8 bits, grey or with a palette, whose values are class indices",
            next_step="write the masks as indices, not as colours",
        )  # fmt: skip
    levels = decode_levels(np.frombuffer(plain, np.uint8))
    if levels is None:
        raise _damaged(path, f"{data.size} bytes, whose pixels cannot be read")
    return levels // np.uint8(255 // (2**bits - 1))


def _as_grey(data: bytes, path: Path) -> tuple[int, int, bytes]:
    """Bits, colour type, and the PNG with a head that says grey; of its chunks only those that hold pixels."""
    if not data.startswith(_PNG):
        raise _damaged(path, f"{len(data)} bytes, no PNG")
    chunks: dict[bytes, list[bytes]] = {b"IHDR": [], b"IDAT": [], b"IEND": []}
    for kind, body in _chunks(data):
        if kind in chunks:
            chunks[kind].append(body)
    head = b"".join(chunks[b"IHDR"])
    if len(head) != 13 or not chunks[b"IEND"]:
        raise _damaged(path, f"{len(data)} bytes, cut off or changed")
    chunks[b"IHDR"] = [head[:9] + b"\0" + head[10:]]
    return head[8], head[9], _PNG + b"".join(_chunk(kind, b"".join(bodies)) for kind, bodies in chunks.items())


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk, up to the last or to one that is damaged."""
    place, kind = len(_PNG), b""
    while kind != b"IEND" and place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        if data[place : place + 12 + length] != _chunk(kind, body):
            return
        yield kind, body
        place += 12 + length


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _damaged(path: Path, found: str) -> InputError:
    return InputError(
        "a mask cannot be decoded", got=f"{path}: {found}", allowed="a whole PNG",
        next_step=f"make it again, or move it away with its image: ls -l '{path}'",
    )  # fmt: skip
