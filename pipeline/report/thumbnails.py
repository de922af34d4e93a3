"""Small PNGs of evaluation images, as the network sees them, for the report's page."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Preprocess, load_batch

_LARGEST = 96  # pixels of the longer side, about


def thumbnails(paths: Iterable[Path], spec: Preprocess) -> list[bytes]:
    """PNG bytes of each image after resize and crop, made smaller by a whole factor where it is larger than 96 pixels."""
    return [encode(shrink(load_batch([path], spec)[0], _LARGEST)) for path in paths]


def shrink(image: NDArray[np.uint8], largest: int) -> NDArray[np.uint8]:
    """(H, W, 3) by the mean of whole squares of pixels, so that the longer side is at most `largest`; edges are cut."""
    factor = -(-max(image.shape[:2]) // largest)
    height, width = (size // factor for size in image.shape[:2])
    squares = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.asarray(squares.mean(axis=(1, 3)).round().astype(np.uint8))


def encode(image: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) as PNG bytes."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, image, format="png")
    return buffer.getvalue()
