"""What an audit needs to know of preprocessed images, gathered in one pass: hashes, colour, and small signatures."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Image

GRID = 8  # cells along each side of a signature
GREY_SPREAD = 4  # levels of 255: JPEG gives a grey picture that much colour
Signatures = NDArray[np.float32]


def pixel_hashes(images: Image) -> list[bytes]:
    """sha256 of each image's pixels."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def signatures(images: Image) -> Signatures:
    """Mean level (0–255) and channel of each cell of a GRID × GRID grid, shape (N, cells · 3)."""
    _, height, width, _ = images.shape
    rows, columns = (np.linspace(0, size, min(GRID, size), endpoint=False).astype(int) for size in (height, width))
    sums = np.add.reduceat(np.add.reduceat(images, rows, axis=1, dtype=np.uint32), columns, axis=2, dtype=np.uint32)
    areas = np.diff([*rows, height])[:, None] * np.diff([*columns, width])[None, :]
    return (sums / areas[None, :, :, None]).reshape(len(images), 3 * areas.size).astype(np.float32)


def grey_images(images: Image) -> NDArray[np.bool_]:
    """Which images (N, H, W, 3) have no colour, (N,)."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return np.asarray(spread.reshape(len(images), -1).max(axis=1) <= GREY_SPREAD)


def constant_images(images: Image) -> NDArray[np.bool_]:
    """Which images are one colour throughout, (N,)."""
    flat = images.reshape(len(images), -1, 3)
    return np.asarray((flat == flat[:, :1]).all(axis=(1, 2)))


@dataclass(frozen=True)
class Pixels:
    """Of N images: pixel hashes, `constant` and `grey` (N,), signatures (N, cells · 3), levels (3, 256) counted."""

    hashes: list[bytes]
    constant: NDArray[np.bool_]
    grey: NDArray[np.bool_]
    signatures: Signatures
    levels: NDArray[np.int64]

    def mean(self) -> NDArray[np.float64]:
        """Per channel, of the 0–1 pixels."""
        return np.asarray(self.levels @ np.arange(256) / self.levels.sum(axis=1) / 255)

    def std(self) -> NDArray[np.float64]:
        """Per channel, of the 0–1 pixels."""
        squares = self.levels @ np.arange(256) ** 2 / self.levels.sum(axis=1) / 255**2
        return np.asarray(np.sqrt(np.maximum(squares - self.mean() ** 2, 0)))


class PixelMeter:
    """Gathers `Pixels` from batches, and the fingerprint of all bytes in order."""

    def __init__(self, preprocess_sha256: str):
        self._digest = hashlib.sha256(preprocess_sha256.encode())
        self._hashes: list[bytes] = []
        self._flags: list[NDArray[np.bool_]] = []
        self._signatures: list[Signatures] = []
        self._levels = np.zeros((3, 256), dtype=np.int64)

    def add(self, images: Image) -> None:
        """Count a batch (n, H, W, 3) in."""
        self._digest.update(np.ascontiguousarray(images).data)
        self._hashes += pixel_hashes(images)
        self._flags.append(np.stack([constant_images(images), grey_images(images)]))
        self._signatures.append(signatures(images))
        for image in images:  # bincount makes 8 bytes of each level
            for channel in range(3):
                self._levels[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)

    def pixels(self) -> Pixels:
        """Of all images so far, at least one."""
        constant, grey = np.concatenate(self._flags, axis=1)
        return Pixels(self._hashes, constant, grey, np.concatenate(self._signatures), self._levels)

    def fingerprint(self) -> str:
        """sha256 of the preprocessing's hash and then all images' bytes in order."""
        return self._digest.hexdigest()
