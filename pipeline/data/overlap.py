"""No image of the val split may also be in the train split: the network would know the answer."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from calib.errors import InputError
from calib.images import ImageSplit

_TAIL = 4096  # bytes: the end of a compressed image differs between nearly all different images

Paths = tuple[Path, ...]


def check_no_overlap(train: ImageSplit, val: ImageSplit) -> None:
    """Raise InputError when a file of `val` has the same content as one of `train`.

    Sizes are compared first, then the last 4 KiB, and whole files only where these are equal, so large sets take little time.
    """
    known, suspects = train.paths, val.paths
    for key in (_size, _tail_sha256, _sha256):
        known, suspects = _alike(known, suspects, key)
    if suspects:
        originals = {_sha256(path): path for path in known}
        raise InputError(
            f"{len(suspects)} val image(s) are also in train, so the measured accuracy would be too good",
            got="; ".join(f"{path} = {originals[_sha256(path)]}" for path in suspects[:3]),
            allowed="no image in both", next_step=f"remove each from one split: rm '{suspects[0]}'",
        )  # fmt: skip


def _alike(known: Paths, suspects: Paths, key: Callable[[Path], object]) -> tuple[Paths, Paths]:
    """The files of each side whose key some file of the other side has too."""
    if not known or not suspects:
        return (), ()
    known_keys, suspect_keys = [key(path) for path in known], [key(path) for path in suspects]
    both = set(known_keys) & set(suspect_keys)
    return (
        tuple(path for path, value in zip(known, known_keys, strict=True) if value in both),
        tuple(path for path, value in zip(suspects, suspect_keys, strict=True) if value in both),
    )


def _size(path: Path) -> int:
    return path.stat().st_size


def _tail_sha256(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return hashlib.sha256(file.read(_TAIL)).digest()


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
