"""Calibration images that are evaluation images too: by file, by preprocessed pixels, and nearly so."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib.images import ImageSplit, Track
from calib.pixels import Pixels, Signatures, pixel_hashes, signatures
from calib.preprocess import Preprocess, load_batch

PIXEL_LIMIT = 10_000  # evaluation images whose pixels are compared: about a minute at 224 px
# Levels of 255 in any cell of the signature. Measured: JPEG at quality 75 moves Fashion-MNIST at 28 px by up to 6, the
# nearest other image is 15 away; photographs move less, since a cell averages more pixels.
NEAR_LEVELS = 8.0
NEAR_CONTRAST = 0.25  # and at most this share of the signature's own std: pale pictures are all alike
_BATCH = 64
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Leak:
    """Pairs (calibration image, evaluation image): with the `same` file or pixels, or only `near` in pixels.

    Files were compared with all `files` evaluation images, pixels with `pixels` of them.
    """

    same: Pairs
    near: Pairs
    files: int
    pixels: int


def find_leak(
    names: Sequence[str], files: Sequence[Path], pixels: Pixels, split: ImageSplit, spec: Preprocess, track: Track
) -> Leak:
    """Compare calibration images (`names`, their `files` where they have any, `pixels`) with the evaluation `split`."""
    same = dict(_same_files(names, files, split))
    chosen = np.linspace(0, len(split) - 1, min(len(split), PIXEL_LIMIT)).round().astype(int).tolist()
    by_hash = _group(zip(pixels.hashes, names, strict=True))
    near_finder = _NearFinder(names, pixels.signatures)
    near: dict[str, str] = {}
    for start in track(range(0, len(chosen), _BATCH), "comparing with evaluation images"):
        paths = [split.paths[index] for index in chosen[start : start + _BATCH]]
        images = load_batch(paths, spec)
        for path, digest, signature in zip(paths, pixel_hashes(images), signatures(images), strict=True):
            for name in by_hash.get(digest, ()):
                same.setdefault(name, _name(path, split))
            for name in near_finder.find(signature) if digest not in by_hash else ():
                near.setdefault(name, _name(path, split))
    only_near = [(name, other) for name, other in near.items() if name not in same]
    return Leak(sorted(same.items()), sorted(only_near), len(split) if files else 0, len(chosen))


def _same_files(names: Sequence[str], files: Sequence[Path], split: ImageSplit) -> Iterator[tuple[str, str]]:
    """Equal file contents; only files of a size that occurs on both sides are read."""
    if not files:
        return
    sizes = [path.stat().st_size for path in files]
    ours = set(sizes)
    suspects = [(path, size) for path in split.paths if (size := path.stat().st_size) in ours]
    theirs = {size for _, size in suspects}
    known = _group(
        (_sha256(path), name) for name, path, size in zip(names, files, sizes, strict=True) if size in theirs
    )
    for path, _ in suspects:
        for name in known.get(_sha256(path), ()):
            yield name, _name(path, split)


def _group(pairs: Iterable[tuple[bytes, str]]) -> dict[bytes, list[str]]:
    """Names by hash."""
    groups: dict[bytes, list[str]] = {}
    for digest, name in pairs:
        groups.setdefault(digest, []).append(name)
    return groups


class _NearFinder:
    """Looks up signatures that differ by little in every cell.

    Their means then differ by no more than that: sorted by mean, only a narrow strip is compared.
    """

    def __init__(self, names: Sequence[str], known: Signatures):
        means = known.mean(axis=1)
        order = np.argsort(means, kind="stable")
        self._known, self._means = known[order], means[order]
        self._names = [names[index] for index in order]

    def find(self, signature: Signatures) -> list[str]:
        """Names of the known images near one signature."""
        allowed = min(NEAR_LEVELS, NEAR_CONTRAST * float(signature.std()))
        mean, margin = signature.mean(), allowed + 0.01  # rounding
        low, high = np.searchsorted(self._means, [mean - margin, mean + margin]).tolist()
        apart = np.abs(self._known[low:high] - signature).max(axis=1)
        return [self._names[low + hit] for hit in np.flatnonzero(apart <= allowed)]


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _name(path: Path, split: ImageSplit) -> str:
    return path.relative_to(split.root.parent).as_posix()
