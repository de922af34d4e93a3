"""Accuracy, agreement and their uncertainty, on logits; and the Pareto front of latency against accuracy.

A row of logits with a NaN or an infinity (after an overflow in FP16, for example) is no prediction: it counts as wrong at
every k and never as agreement, whatever its `argmax` is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Flags = NDArray[np.bool_]


def finite_rows(logits: ArrayLike) -> Flags:
    """Which rows of `logits` (images, classes) are finite throughout; shape (images,)."""
    values = np.asarray(logits)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"logits have shape {values.shape}, wanted (images, classes), neither of them 0")
    return np.isfinite(values).all(axis=1)


def finite_fraction(logits: ArrayLike) -> float:
    """Share of images, 0–1, whose logits (images, classes) hold neither NaN nor infinity."""
    return float(finite_rows(logits).mean())


def correct_rows(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> Flags:
    """Which images have their label (integers, shape (images,)) among the k largest logits; shape (images,).

    Equal logits rank in class order, as with `argmax`, so a constant output is right for one class only.
    Where k is at least the number of classes, every finite row is right.
    """
    finite = finite_rows(logits)
    values, truth = np.asarray(logits), np.asarray(labels)
    if truth.shape != finite.shape or not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"labels are {truth.dtype} {truth.shape}, wanted integers of shape {finite.shape}")
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise ValueError(f"labels run from {truth.min()} to {truth.max()}, wanted 0 to {values.shape[1] - 1}")
    if k < 1:
        raise ValueError(f"k is {k}, wanted at least 1")
    own = values[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(values.shape[1])[None, :] < truth[:, None]
    rank = ((values > own) | ((values == own) & earlier)).sum(axis=1)
    return finite & (rank < k)


def accuracy(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Top-k accuracy in percent, 0–100; see `correct_rows`."""
    return 100.0 * float(correct_rows(logits, labels, k).mean())


def agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Percent of images, 0–100, on which two sets of logits (images, classes) have the same largest class."""
    first, second = np.asarray(a), np.asarray(b)
    finite = finite_rows(first) & finite_rows(second)
    if first.shape != second.shape:
        raise ValueError(f"logits have shapes {first.shape} and {second.shape}, wanted the same images and classes")
    return 100.0 * float((finite & (first.argmax(axis=1) == second.argmax(axis=1))).mean())


def paired_interval(
    correct_a: ArrayLike, correct_b: ArrayLike, seed: int = 0, resamples: int = 10000
) -> tuple[float, float]:
    """95 % bootstrap interval, in percentage points, of accuracy(a) − accuracy(b) on the same images.

    Takes two boolean arrays of shape (images,), from `correct_rows`. Paired percentile bootstrap (Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993, chapter 13). An image's difference is −1, 0 or +1, so drawing images with
    replacement has the same distribution as drawing the three counts from a multinomial, which is faster.
    Where no image differs the interval is (0, 0): the bootstrap can only resample what was observed.
    """
    first, second = np.asarray(correct_a), np.asarray(correct_b)
    if first.dtype != np.bool_ or second.dtype != np.bool_ or first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"got {first.dtype} {first.shape} and {second.dtype} {second.shape}, wanted two bool arrays of one length"
        )
    count = first.size
    if count == 0 or resamples < 1:
        raise ValueError(f"got {count} images and {resamples} resamples, wanted at least one of each")
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    shares = np.array([gained, lost, count - gained - lost]) / count
    draws = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    low, high = np.percentile(100.0 * (draws[:, 0] - draws[:, 1]) / count, [2.5, 97.5])
    return float(low), float(high)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The Pareto front: indices of the points (latency, accuracy) that no other point beats, by rising latency.

    Lower latency and higher accuracy are better; a point is beaten by one that is no worse in both and better in one.
    Equal points are on the front together.
    """
    values = np.asarray(points, dtype=float).reshape(-1, 2)
    if not np.isfinite(values).all():
        raise ValueError(f"points must be finite, got {list(points)}")
    front: list[int] = []
    best, best_latency = -np.inf, np.nan
    for index in sorted(range(len(values)), key=lambda i: (values[i, 0], -values[i, 1])):
        latency, score = values[index]
        if score > best or (score == best and latency == best_latency):
            front.append(index)
            best, best_latency = score, latency
    return front
