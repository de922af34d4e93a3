"""Whether a change of accuracy is more than chance, and how small a drop an evaluation can detect: paired tests."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05  # two-sided
POWER = 0.8  # the probability of detecting a drop


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test: only the engine is right on `gained` images, only the reference on `lost`.

    Where neither is better, each of these images is a fair coin toss (McNemar, Psychometrika 12, 1947), so p is twice the
    smaller tail of Binomial(gained + lost, 1/2), at most 1. Images that both get right or both wrong do not count.
    """
    from scipy.stats import binom

    if gained < 0 or lost < 0:
        raise ValueError(f"got {gained} gained and {lost} lost, wanted counts of images")
    return min(1.0, 2 * float(binom.cdf(min(gained, lost), gained + lost, 0.5)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's method, in the order given (Scand. J. Statistics 6, 1979)."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def detection_power(images: int, changed: float, drop: float) -> float:
    """Probability that the exact McNemar test finds a true drop at level `ALPHA` on `images` images.

    `changed` is the share of images on which exactly one of the two is right, `drop` the share lost less the share gained.
    The sum runs over the number of changed images (binomial); each term is the probability that few enough are gains.
    """
    from scipy.stats import binom

    if not 0 < drop <= changed <= 1 or images < 1:
        raise ValueError(f"got {images} images, {changed} changed, drop {drop}: wanted 0 < drop <= changed <= 1")
    first, last = binom.ppf([1e-12, 1 - 1e-12], images, changed)
    counts = np.arange(max(int(first), 1), int(last) + 1)
    found = binom.cdf(_most_gains(counts), counts, (changed - drop) / (2 * changed))
    return float((binom.pmf(counts, images, changed) * found).sum())


def _most_gains(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each number of changed images, the most gains with which the test still finds a drop; −1 where it never does."""
    from scipy.stats import binom

    most = binom.ppf(ALPHA / 2, counts, 0.5)
    return np.asarray(np.where(binom.cdf(most, counts, 0.5) <= ALPHA / 2, most, most - 1), dtype=np.int64)


def smallest_drop(images: int, changed: int) -> float | None:
    """The smallest true drop, in percentage points, that `images` images show with probability `POWER`; None if they show none.

    `changed` images changed between right and wrong, in either direction; the more there are, the larger the noise. For a
    drop larger than their share, as many images as the drop loses are taken to change. Found by bisection over
    `detection_power`; with many changed images the result is that of Connor's formula (see `images_needed`).
    """
    share = changed / images

    def power(drop: float) -> float:
        return detection_power(images, max(share, drop), drop)

    if power(1.0) < POWER:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return 100 * high


def images_needed(drop_pp: float, changed: float) -> int:
    """How many images show a drop of `drop_pp` percentage points with probability `POWER` where a share `changed` changes.

    Connor, Sample size for testing differences in proportions for the paired-sample design, Biometrics 43 (1987), 207-211:
    n = ((z₁ √ψ + z₂ √(ψ − δ²)) / δ)², ψ the share changed and δ the drop. At least so many that 8 losses are expected,
    because with no gains at all the exact test needs 6 losses to find a drop.
    """
    drop = drop_pp / 100
    share = max(changed, drop)
    normal = NormalDist()
    first, second = normal.inv_cdf(1 - ALPHA / 2), normal.inv_cdf(POWER)
    wanted = ((first * math.sqrt(share) + second * math.sqrt(share - drop * drop)) / drop) ** 2
    return math.ceil(max(wanted, 8 / drop))
