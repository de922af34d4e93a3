"""Ranges of activations: any batches in any order, thresholds against brute force."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from export.quantize.histogram import BINS, Histogram
from export.quantize.ranges import (
    FIRST_BIN,
    STRIDE,
    Range,
    RangeMethod,
    _Meter,
    entropy_amax,
    mse_amax,
    percentile_amax,
)

pytestmark = pytest.mark.slow

Floats32 = NDArray[np.float32]
CHOOSING: list[RangeMethod] = ["entropy", "percentile", "mse"]


def normal(scale: float, size: int = 50_000, seed: int = 0) -> Floats32:
    return np.random.default_rng(seed).normal(scale=scale, size=size).astype(np.float32)


def measure(method: RangeMethod, batches: Sequence[Floats32], percentile: float = 99.9) -> Range:
    meter = _Meter(method)
    for batch in batches:
        meter.add("x", batch)
    return meter.range(percentile)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("growth", [1.0, 40.0, 1e2, 1e4, 1e8])
@pytest.mark.parametrize("method", CHOOSING)
def test_neither_order_nor_size_of_batches_matters(method: RangeMethod, growth: float) -> None:
    """A first batch that is much quieter than a later one included: the answer is that of all values at once."""
    quiet, loud = normal(0.01), normal(0.01 * growth, seed=1)
    everything = np.concatenate([quiet, loud])
    whole = measure(method, [everything])
    orders = {
        "quiet first": [quiet, loud], "loud first": [loud, quiet], "small": np.array_split(everything, 37),
        "zeros first": [np.zeros(10, np.float32), quiet, loud[:100], loud[100:]],
    }  # fmt: skip
    for name, batches in orders.items():
        found = measure(method, batches)
        assert abs(found.amax - whole.amax) <= 1e-3 * whole.high, (name, found, whole)
        assert (found.low, found.high) == (whole.low, whole.high)
        assert found == whole or name == "zeros first", (name, found, whole)
    highest = float(np.abs(everything).max())
    assert highest / 16 <= whole.amax <= highest and 0 <= whole.saturated < 0.02


def test_joined_bins_are_those_of_all_values() -> None:
    """Twenty batches that double: numpy's counts of all of them in the last bins; exact where bins are joined."""
    batches = [normal(2.0**step, 4_000, step) for step in range(20)]
    grown = Histogram()
    for batch in batches:
        grown.add(batch)
    values = np.abs(np.concatenate(batches))
    width = 2.0**grown._exponent
    expected, _ = np.histogram(values, 2 * BINS, (0, 2 * BINS * width))
    assert (grown._counts == expected).all() and width <= values.max() / BINS
    counts, edges = grown.bins()
    exact, _ = np.histogram(values, edges)
    assert edges[-1] == values.max() and counts.sum() == len(values) == exact.sum()
    assert np.abs(np.cumsum(counts) - np.cumsum(exact)).max() <= expected.max()  # an edge is off by a bin at most


def test_memory_does_not_grow_with_the_range() -> None:
    tiny, huge = normal(1e-30), normal(1e30)
    measure("percentile", [tiny])  # what it imports is not its memory
    tracemalloc.start()
    try:
        measure("percentile", [tiny, huge])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000, f"{peak / 1e6:.1f} MB"


def test_counts_beyond_float32_and_int32_are_kept() -> None:
    """More values in one bin than float32 or int32 can count by one: a ReLU's zeros on some thousand images."""
    histogram = Histogram()
    histogram.add(np.array([0.0, 0.75, 1.0], np.float32))
    histogram._counts[0] += 3 * 2**30
    counts, edges = histogram.bins()
    assert counts.sum() == 3 * 2**30 + 3
    assert percentile_amax(counts, edges, 100 - 1e-9) > 0.7 and entropy_amax(counts, edges) <= 1


# --- thresholds ------------------------------------------------------------------------------------------------------


def divergence(counts: NDArray[np.int64], kept: int) -> float:
    """KL of the histogram, what is beyond `kept` bins added to the last of them, from its 128 levels; by definition.

    A level is spread evenly over those of its bins that are not empty. Infinite where a level has nothing of what P has.
    """
    given = counts[:kept].astype(float)
    q = np.zeros(kept)
    for level in range(128):
        own = [place for place in range(kept) if place * 128 // kept == level and given[place] > 0]
        if own:
            q[own] = given[own].mean()
    p = given.copy()
    p[-1] += counts[kept:].sum()
    p, q = p / p.sum(), q / q.sum()
    if (q[p > 0] == 0).any():
        return np.inf
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize(
    "values", [normal(1.0), np.random.default_rng(1).laplace(size=50_000), normal(1.0) ** 3, np.append(normal(1.0), 9.0)],
    ids=["normal", "laplace", "cubed", "outlier"],
)  # fmt: skip
def test_entropy_is_the_least_divergence_of_all_thresholds(values: NDArray[np.float64]) -> None:
    """Against brute force on a histogram of 384 bins; the first bin counts as the second, as in modelopt."""
    counts, edges = np.histogram(np.abs(values), 384)
    tried = range(FIRST_BIN, 384 + 1, STRIDE)
    filled = np.concatenate([counts[1:2], counts[1:]])
    errors = [divergence(filled, kept) for kept in tried]
    best = max(index for index, error in enumerate(errors) if error <= min(errors) * (1 + 1e-9))
    assert entropy_amax(counts, edges) == pytest.approx(edges[tried[best]], rel=1e-6)
    assert np.ptp(np.asarray(errors)[np.isfinite(errors)]) > 1e-3, "the thresholds are not alike"


def test_entropy_of_values_none_of_which_are_small() -> None:
    """Thresholds under the least magnitude have a divergence of NaN, which modelopt's search takes for the least."""
    values = np.random.default_rng(0).uniform(5, 10, 50_000).astype(np.float32)
    found = measure("entropy", [values])
    assert found.amax > 9 and found.saturated < 0.2, found
    atom = measure("entropy", [np.full(100, 3.0, np.float32)])
    assert atom.amax == 3.0 and atom.saturated == 0


@pytest.mark.parametrize("share", [90.0, 99.0, 99.99, 100.0])
def test_percentile_is_that_of_the_samples(share: float) -> None:
    values = normal(1.0, 200_000)
    found = measure("percentile", np.array_split(values, 7), share)
    highest = float(np.abs(values).max())
    assert found.amax == pytest.approx(np.quantile(np.abs(values), share / 100), abs=2 * highest / BINS)
    assert found.saturated == pytest.approx(1 - share / 100, abs=0.003)


def test_a_percentile_in_the_first_bin_is_not_zero() -> None:
    """Zero would be told as `always zero`."""
    values = np.append(np.zeros(99_999, np.float32), np.float32(4.0))
    assert measure("percentile", [values], 99.0).amax == pytest.approx(4 / BINS)


def test_mse_is_the_least_of_all_thresholds() -> None:
    """Against the error of the samples themselves, at every threshold; modelopt's own is a sixteenth of it."""
    samples = np.abs(np.random.default_rng(0).laplace(size=200_000))
    counts, edges = np.histogram(samples, BINS, (0, samples.max()))
    found = mse_amax(counts, edges)

    def error(amax: float) -> float:
        scale = amax / 127
        return float(((np.minimum(np.rint(samples / scale), 127) * scale - samples) ** 2).mean())

    assert error(found) <= 1.01 * min(error(amax) for amax in np.linspace(0.1, 1, 181) * samples.max())
