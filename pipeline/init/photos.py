"""What the images are: their sizes, their colours, and which of them are the same picture."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from calib.errors import InputError
from calib.preprocess import decode_image, read_bytes
from pipeline.console.progress import track
from pipeline.data.look import damaged_images

_PIXELS = 65_536  # of an image, that its colours are measured on
_STD_FLOOR = 0.05  # of images that are nearly one colour


@dataclass(frozen=True)
class Photo:
    """An image, upright: `pixels` is a hash of size and pixels, `mean` and `square` (3,) are of 0–1 values and their squares."""

    path: Path
    height: int
    width: int
    pixels: bytes
    mean: tuple[float, float, float]
    square: tuple[float, float, float]


def look_at(paths: Sequence[Path], title: str) -> list[Photo]:
    """Decode each image once, several at a time. InputError that names those that cannot be decoded, or not be read."""
    found: list[Photo | InputError] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            results = pool.map(_look_or_fail, paths)
            found = [next(results) for _ in track(range(len(paths)), title)]
        finally:
            pool.shutdown(cancel_futures=True)
    damaged = [path for path, one in zip(paths, found, strict=True) if isinstance(one, InputError)]
    if damaged:
        raise damaged_images(damaged, len(paths))
    return [one for one in found if isinstance(one, Photo)]


def _look_or_fail(path: Path) -> Photo | InputError:
    try:
        return _look(path)
    except InputError as error:
        return error


def _look(path: Path) -> Photo:
    image = decode_image(read_bytes(path), path)
    height, width = image.shape[:2]
    digest = hashlib.blake2b(f"{height} {width} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    step = max(1, round((height * width / _PIXELS) ** 0.5))
    values = image[::step, ::step].reshape(-1, 3) / 255
    red, green, blue = values.mean(axis=0).tolist()
    red2, green2, blue2 = (values**2).mean(axis=0).tolist()
    return Photo(path, height, width, digest.digest(), (red, green, blue), (red2, green2, blue2))


def median_size(photos: Sequence[Photo]) -> tuple[int, int]:
    """Median width and height in pixels."""
    return round(median(photo.width for photo in photos)), round(median(photo.height for photo in photos))


def colours(photos: Sequence[Photo]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of red, green and blue over all images, for values from 0 to 1, to three digits."""
    mean = np.mean([photo.mean for photo in photos], axis=0)
    variance = np.mean([photo.square for photo in photos], axis=0) - mean**2
    std = np.sqrt(np.maximum(variance, _STD_FLOOR**2))
    return [round(value, 3) for value in mean.tolist()], [round(value, 3) for value in std.tolist()]
