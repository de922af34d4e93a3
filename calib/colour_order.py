"""Is the red channel red? Two measures: the images' colour statistics, and the trained network itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Image

MAX_P = 0.001  # chance of such a result where the order makes no difference
MIN_GAIN = 0.05  # mean confidence that swapping must gain where no labels are known
MIN_DIFFERENCE = 0.01  # of confidence: less is no difference to the sign test
MIN_IMAGES = 16  # images in colour, below which nothing is said
STRONG = 4.0  # standard errors
_BATCH = 16
_LOOKS = ((0, 4), (2, 4), (1, 2))  # of each look: the images from the first on, every so many-th; together they are all

Verdict = Literal["right", "wrong", "undecided"]
Logits = Callable[[Image], NDArray[Any]]  # uint8 (n, H, W, 3) → (n, classes)


@dataclass(frozen=True)
class ColourOrder:
    """What one measure says of the colour order, why in one line, and its figures."""

    verdict: Verdict
    text: str
    figures: dict[str, float | int]


def compare_statistics(ours: NDArray[np.float64], training: NDArray[np.float64]) -> ColourOrder:
    """Red minus blue of the images against the training images': per-image channel means (N, 3), levels of 255.

    Wrong where the difference from training is over STRONG standard errors and swapping removes most of it. Images of
    other things than the training images may do that too, in the right order: this measure is a hint.
    """
    if min(len(ours), len(training)) < MIN_IMAGES:
        return ColourOrder("undecided", f"fewer than {MIN_IMAGES} images in colour", {})
    a, b = (means[:, 0] - means[:, 2] for means in (ours, training))
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) + 1e-9
    given, swapped = abs(a.mean() - b.mean()), abs(a.mean() + b.mean())
    verdict: Verdict = "undecided"
    if given > STRONG * error and swapped < given / 2:
        verdict = "wrong"
    elif swapped > STRONG * error and given < swapped / 2:
        verdict = "right"
    text = f"red − blue is {a.mean():+.1f} levels, of training images {b.mean():+.1f} (± {error:.1f})"
    figures = {"red_minus_blue": a.mean(), "training": b.mean(), "standard_error": error}
    return ColourOrder(verdict, text, {key: round(float(value), 3) for key, value in figures.items()})


def ask_network(images: Image, labels: NDArray[np.int64], logits: Logits) -> ColourOrder:
    """Does the network do better on images in colour (N, H, W, 3) as given, or with red and blue swapped?

    With labels: images right in one order only, by the exact McNemar test. Without (-1): the confidence in the
    predicted class, by the sign test, and the mean gain must be at least MIN_GAIN, since a network may be a little
    surer of odd colours throughout. Where a quarter or half of them say that the order is right, that is the answer;
    any other is of all.
    """
    if len(images) < MIN_IMAGES:
        return ColourOrder("undecided", f"fewer than {MIN_IMAGES} images in colour", {"images": len(images)})
    parts = _LOOKS if len(images) >= 4 * MIN_IMAGES else ((0, 1),)
    looks: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = []
    for first, step in parts:
        some = images[first::step]
        looks.append((labels[first::step], _infer(some, logits), _infer(some[..., ::-1], logits)))
        found = _judge(*(np.concatenate(values) for values in zip(*looks, strict=True)))
        if found.verdict == "right":
            break
    return found


def _judge(labels: NDArray[np.int64], given: NDArray[np.float64], swapped: NDArray[np.float64]) -> ColourOrder:
    """What the probabilities of the same images in both orders say."""
    if (labels >= 0).all():
        return _by_labels(given.argmax(axis=1) == labels, swapped.argmax(axis=1) == labels)
    return _by_confidence(_confidence(given), _confidence(swapped))


def one_sided_p(wins: int, losses: int) -> float:
    """Chance of at least `wins` heads in `wins + losses` throws of a fair coin."""
    throws = wins + losses
    return sum(math.comb(throws, heads) for heads in range(wins, throws + 1)) / 2**throws


def _by_labels(given: NDArray[np.bool_], swapped: NDArray[np.bool_]) -> ColourOrder:
    gained, lost = int((swapped & ~given).sum()), int((given & ~swapped).sum())
    verdict: Verdict = "undecided"
    if one_sided_p(gained, lost) < MAX_P:
        verdict = "wrong"
    elif one_sided_p(lost, gained) < MAX_P:
        verdict = "right"
    text = f"top-1 {100 * given.mean():.1f} % as given, {100 * swapped.mean():.1f} % {_swapped(len(given))}"
    figures: dict[str, float | int] = {"images": len(given), "right_only_as_given": lost, "right_only_swapped": gained}
    return ColourOrder(verdict, text, figures)


def _by_confidence(given: NDArray[np.float64], swapped: NDArray[np.float64]) -> ColourOrder:
    gain = float((swapped - given).mean())
    more, less = int((swapped - given > MIN_DIFFERENCE).sum()), int((given - swapped > MIN_DIFFERENCE).sum())
    verdict: Verdict = "undecided"
    if one_sided_p(more, less) < MAX_P and gain >= MIN_GAIN:
        verdict = "wrong"
    elif one_sided_p(less, more) < MAX_P and gain <= -MIN_GAIN:
        verdict = "right"
    text = f"mean confidence {given.mean():.3f} as given, {swapped.mean():.3f} {_swapped(len(given))}"
    return ColourOrder(
        verdict, text, {"images": len(given), "surer_as_given": less, "surer_swapped": more, "gain": round(gain, 4)}
    )


def _swapped(images: int) -> str:
    return f"with red and blue swapped ({images} images)"


def _confidence(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest probability of each image, (N,); where each pixel has its own, their mean."""
    return np.asarray(probabilities.max(axis=1).reshape(len(probabilities), -1).mean(axis=1))


def _infer(images: Image, logits: Logits) -> NDArray[np.float64]:
    """Softmax probabilities, (N, classes) or (N, classes, H, W)."""
    rows = [logits(np.ascontiguousarray(images[at : at + _BATCH])) for at in range(0, len(images), _BATCH)]
    values = np.concatenate(rows).astype(np.float64)
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))
