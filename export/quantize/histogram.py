"""A histogram of magnitudes for batches of any range: what it finds depends neither on their order nor on their size."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
BINS = 2048  # that thresholds are chosen from; modelopt's default
_DOUBLINGS = 12  # 4096 bins are counted: under 2 · BINS of them are in use, so that none is wider than one of BINS
_NARROWEST = -126  # exponent of a width whose inverse is still a finite float32
_CHUNK = 2**18  # values counted at a time: what is made of them stays in the cache


class Histogram:
    """Counts of magnitudes (float32) in at most 2 · BINS bins of equal width, from 0.

    The width is a power of two, the least that the largest magnitude so far allows. A larger one doubles it as often as
    it takes and joins the bins in pairs: the counts are those of wide bins from the first value on, exactly.
    """

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(2**_DOUBLINGS, dtype=np.int64)
        self._exponent = _NARROWEST  # bins are 2**exponent wide
        self._highest = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count finite values of any shape in, at least one."""
        self._widen_for(max(float(values.max()), -float(values.min())))
        inverse = np.float32(2.0**-self._exponent)  # a product with a power of two rounds nothing
        flat = values.reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            places = (np.abs(flat[start : start + _CHUNK]) * inverse).astype(np.intp)
            self._counts += np.bincount(places, minlength=len(self._counts))

    def _widen_for(self, highest: float) -> None:
        """Make room for a magnitude."""
        if highest <= self._highest:
            return
        self._highest = highest
        exponent = max(math.frexp(highest)[1] - _DOUBLINGS, _NARROWEST)  # highest < 2**(exponent + _DOUBLINGS)
        joined = 2 ** min(exponent - self._exponent, _DOUBLINGS)  # with all of them joined, all are in the first
        counts = self._counts.reshape(-1, joined).sum(axis=1)
        self._counts = np.concatenate([counts, np.zeros(len(self._counts) - len(counts), dtype=np.int64)])
        self._exponent = exponent

    def bins(self) -> tuple[Counts, Floats]:
        """Counts (BINS,) and edges (BINS + 1,) of equal bins from 0 to the largest magnitude, as modelopt makes of one batch.

        Their edges fall into the counted bins, whose values are taken to lie evenly. ValueError where all are zero.
        """
        if not self._highest:
            raise ValueError("a histogram of nothing but zeros has no bins")
        counted = np.arange(len(self._counts) + 1) * 2.0**self._exponent
        edges = np.linspace(0, self._highest, BINS + 1)
        below = np.rint(np.interp(edges, counted, np.concatenate([[0], np.cumsum(self._counts)]))).astype(np.int64)
        below[-1] = self._counts.sum()
        return np.diff(below), edges
