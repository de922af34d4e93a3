"""The calibration set: preprocessed real images in a plain npz, with the hash of the preprocessing that made them.

It is written and read a chunk at a time: 5,000 images at 224 px are 750 MB, which no stage needs to hold at once.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.calibration_source import Draw, draw_from_split, silent
from calib.errors import InputError
from calib.images import ImageSplit, Track
from calib.npz import UNREADABLE, StoredArray, open_array, write_npz
from calib.preprocess import Image, Preprocess

CHUNK = 64  # images at a time: 10 MB at 224 px


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """uint8 images (N, H, W, 3), in memory or in a file, their labels (N,), -1 where unknown, and their names."""

    source: Image | StoredArray
    labels: NDArray[np.int64]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def images(self) -> Image:
        """All images at once, read anew each time; `batches`, `first`, `spread` and `take` need less memory."""
        if isinstance(self.source, np.ndarray):
            return self.source
        return next(self.batches(max(1, len(self))))

    def batches(self, size: int) -> Iterator[Image]:
        """The images in order, `size` at a time, the last batch smaller; reads no more of the file than it gives."""
        if not isinstance(self.source, StoredArray):
            yield from (self.source[start : start + size] for start in range(0, len(self), size))
            return
        try:
            yield from self.source.chunks(size)
        except UNREADABLE as error:
            raise _unreadable(self.source.path, error) from error

    def first(self, count: int) -> Image:
        """The first `count` images, all where there are fewer. Sets are sorted by class: these are of the first classes."""
        return self.take(range(min(count, len(self))))

    def spread(self, count: int) -> "CalibrationSet":
        """`count` images evenly spaced over the set (all where there are fewer), in memory, with their labels and names."""
        chosen = spread(len(self), count)
        names = tuple(self.names[index] for index in chosen) if self.names else ()
        return CalibrationSet(self.take(chosen), self.labels[chosen], names)

    def take(self, indices: Sequence[int]) -> Image:
        """The images at `indices` (rising), shape (len(indices), H, W, 3)."""
        wanted, picked, start = np.asarray(indices, dtype=np.int64), [], 0
        if wanted.size == 0 or (np.diff(wanted) <= 0).any() or wanted[0] < 0 or wanted[-1] >= len(self):
            raise ValueError(f"indices must rise within 0 … {len(self) - 1}, got {list(indices)[:5]}")
        for batch in self.batches(CHUNK):
            inside = wanted[(wanted >= start) & (wanted < start + len(batch))]
            if inside.size:
                picked.append(batch[inside - start])
            start += len(batch)
            if start > wanted[-1]:
                break
        return np.concatenate(picked)


def spread(total: int, count: int) -> list[int]:
    """`count` indices (all where there are fewer) evenly spaced in 0 … total − 1: a calibration set is sorted by class."""
    count = min(count, total)
    return [index * total // count for index in range(count)]


def write_calibration_set(draw: Draw, spec: Preprocess, path: Path, track: Track = silent) -> CalibrationSet:
    """Preprocess what was drawn and write it to `path`; images that cannot be read are all found, then refused."""
    shape = (len(draw.names), spec.height, spec.width, 3)
    labels = np.asarray(draw.labels, dtype=np.int64)
    small: dict[str, NDArray[np.generic]] = {
        "labels": labels,
        "names": np.asarray(draw.names),
        "preprocess_sha256": np.asarray(spec.sha256()),
        "preprocess": np.asarray(json.dumps(spec.to_dict())),
    }
    write_npz(path, small, "images", shape, draw.images(spec, CHUNK, track))
    return CalibrationSet(open_array(path, "images"), labels, tuple(draw.names))


def make_calibration_set(split: ImageSplit, spec: Preprocess, count: int, seed: int, path: Path) -> CalibrationSet:
    """Draw `count` images class-balanced from `split`, preprocess them and write them to `path`."""
    return write_calibration_set(draw_from_split(split, count, seed), spec, path)


def load_calibration_set(path: Path, spec: Preprocess) -> CalibrationSet:
    """Open a calibration set; missing, unreadable or differently preprocessed data is an InputError, never replaced.

    The images stay in the file; its checksum is compared whenever they have been read to the end.
    """
    if not path.is_file():
        raise InputError(
            "the calibration set is missing",
            got=f"no file {path}",
            allowed="real images: nothing is calibrated on random data",
            next_step="t2t-edge calibrate",
        )
    try:
        images = open_array(path, "images")
        with np.load(path, allow_pickle=False) as stored:
            labels, names = stored["labels"], tuple(str(name) for name in stored["names"])
            preprocess_sha256, made_with = str(stored["preprocess_sha256"]), str(stored["preprocess"])
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if preprocess_sha256 != spec.sha256():
        raise InputError(
            f"the calibration set {path} was preprocessed differently from what the network gets",
            got=made_with, allowed=json.dumps(spec.to_dict()), next_step="t2t-edge calibrate",
        )  # fmt: skip
    expected = (spec.height, spec.width, 3)
    if images.dtype != np.uint8 or images.shape[1:] != expected or len(images) == 0 or len(labels) != len(images):
        raise InputError(
            f"the calibration set {path} does not fit",
            got=f"{images.dtype} {images.shape}, {len(labels)} labels",
            allowed=f"uint8 (N, {', '.join(map(str, expected))}) and a label each", next_step="t2t-edge calibrate",
        )  # fmt: skip
    return CalibrationSet(images, labels, names)


def _unreadable(path: Path, error: BaseException) -> InputError:
    return InputError(
        "the calibration set cannot be read",
        got=f"{path}: {error}",
        allowed="the npz that `t2t-edge calibrate` writes",
        next_step="t2t-edge calibrate",
    )
