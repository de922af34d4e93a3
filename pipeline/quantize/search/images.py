"""The search split: training images that are neither in the calibration set nor among the evaluation images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib.calibration import CHUNK, CalibrationSet
from calib.errors import InputError
from calib.images import ImageSplit, balanced_subset
from calib.leak import find_leak
from calib.pixels import PixelMeter, pixel_hashes
from calib.preprocess import Image, Preprocess, load_batch
from pipeline.console.progress import track
from pipeline.tasks.task import Labels, Task


@dataclass(frozen=True, eq=False)
class SearchSplit:
    """Preprocessed images (N, H, W, 3) uint8 in memory (150 KB each at 224 px), the task's labels, (N,) or (N, H, W), and their
    files."""

    images: Image
    labels: Labels
    paths: tuple[Path, ...]
    fingerprint: str
    left_out: int  # images that were drawn and left out again, because another set has their content


def draw_search_split(
    task: Task, train: ImageSplit, evaluation: ImageSplit, calibration: CalibrationSet, spec: Preprocess, count: int, seed: int
) -> SearchSplit:  # fmt: skip
    """Draw `count` images from `train`, equally many of each of its groups; the same seed draws the same images.

    Left out are the calibration images, images whose preprocessed pixels equal those of a calibration image or equal or
    nearly equal those of an evaluation image (`calib.leak`), and duplicates. InputError where too few are left.
    """
    named = set(calibration.names)
    pool = [path for path, name in zip(train.paths, train.names, strict=True) if name not in named]
    calibrated = {digest for batch in calibration.batches(CHUNK) for digest in pixel_hashes(batch)}
    refused: set[Path] = set()
    while True:
        left = _without(train, set(pool) - refused)
        if len(left) < count:
            raise InputError(
                "there are too few training images for the search", allowed=f"at least search.images: {count}",
                got=f"{len(left)} of {len(train)} are neither calibration images ({len(calibration)}) nor duplicates "
                "of others", next_step=_advice(len(left), train),
            )  # fmt: skip
        chosen = balanced_subset(left, count, seed)
        paths = [left.paths[index] for index in chosen]
        images, meter = _load(paths, spec)
        pixels = meter.pixels()
        bad = {path for path, digest in zip(paths, pixels.hashes, strict=True) if digest in calibrated}
        bad |= _repeated(paths, pixels.hashes)
        names = [str(path) for path in paths]
        leak = find_leak(names, paths, pixels, evaluation, spec, track)
        bad |= {Path(name) for name, _ in leak.same + leak.near}
        if not bad:
            labels = task.labels(left.take(chosen), slice(None), spec)
            return SearchSplit(images, labels, tuple(paths), meter.fingerprint(), len(refused))
        refused |= bad


def _advice(left: int, train: ImageSplit) -> str:
    more = f"lower calibrate.images, or add images to {train.root}"
    return f"set search.images: {left} in the recipe, {more}" if left else f"in the recipe {more}"


def _without(split: ImageSplit, kept: set[Path]) -> ImageSplit:
    return split.take([index for index, path in enumerate(split.paths) if path in kept])


def _load(paths: list[Path], spec: Preprocess) -> tuple[Image, PixelMeter]:
    images = np.empty((len(paths), spec.height, spec.width, 3), dtype=np.uint8)
    meter = PixelMeter(spec.sha256())
    for start in track(range(0, len(paths), CHUNK), "search images"):
        batch = load_batch(paths[start : start + CHUNK], spec)
        images[start : start + CHUNK] = batch
        meter.add(batch)
    return images, meter


def _repeated(paths: list[Path], hashes: list[bytes]) -> set[Path]:
    """Of images with equal pixels, all but the first."""
    seen: set[bytes] = set()
    repeated = set()
    for path, digest in zip(paths, hashes, strict=True):
        if digest in seen:
            repeated.add(path)
        seen.add(digest)
    return repeated
