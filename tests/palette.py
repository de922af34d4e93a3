"""How far colours are apart, also for colour-blind readers; `python tests/palette.py` prints `pipeline.tasks.colours`'."""

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.float64]

# Okabe and Ito, Color universal design, 2008; black first, as class 0 is the background mostly.
FIRST = [
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
]
GREYS = [(128, 128, 128), (190, 190, 190)]  # of pixels without a class
COUNT = 255
_STEP = 15  # of the grid of colours, in levels
_WEIGHT = 3.0  # nearer by so much for colour-blind readers counts as nearer for the others
# Ottosson, A perceptual color space for image processing, 2020: linear sRGB → cone responses → OKLab.
_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]
# Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009), 1291-1298: deuteranopia and protanopia, of linear sRGB.
_SEEN = [
    np.eye(3).tolist(),
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
]  # fmt: skip


def seen(colours: NDArray[np.uint8]) -> Colours:
    """(n, 3) sRGB levels → (3, n, 3) OKLab: by usual sight, deuteranopia and protanopia."""
    values = colours.astype(np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = [np.clip(linear @ np.transpose(matrix), 0, 1) @ np.transpose(_CONES) for matrix in _SEEN]
    return np.stack([np.cbrt(of) @ np.transpose(_LAB) for of in cones])


def distances(colours: NDArray[np.uint8]) -> Colours:
    """(n, 3) sRGB levels → (3, n, n): how far they are apart by each sight; infinity of a colour to itself."""
    points = seen(colours)
    found = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    return np.asarray(found + np.where(np.eye(len(colours), dtype=bool), np.inf, 0.0))


def make_palette() -> NDArray[np.uint8]:
    """(255, 3): the first eight, then again and again the colour that is furthest from all before and from the greys."""
    levels = np.arange(0, 256, _STEP)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.uint8)
    candidates = seen(grid)
    taken = seen(np.array(FIRST + GREYS, dtype=np.uint8))
    nearest = np.stack([
        np.linalg.norm(candidates[sight][:, None] - taken[sight][None], axis=-1).min(axis=1) for sight in range(3)
    ])  # fmt: skip
    found = list(FIRST)
    while len(found) < COUNT:
        best = int(np.minimum(nearest[0], _WEIGHT * nearest[1:].min(axis=0)).argmax())
        found.append(tuple(grid[best].tolist()))
        nearest = np.minimum(nearest, np.linalg.norm(candidates - candidates[:, best : best + 1], axis=-1))
    return np.array(found, dtype=np.uint8)


if __name__ == "__main__":
    text = make_palette().tobytes().hex()
    print("\n".join(text[start : start + 102] for start in range(0, len(text), 102)))
