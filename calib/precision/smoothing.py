"""SmoothQuant's arithmetic (Xiao et al. 2022, arXiv 2211.10438, section 4): the scale, and what INT8 makes of a layer.

A layer computes X·W, with X (rows, channels) and W (channels, columns). docs/smoothquant.md says where s goes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# With s in this range an activation of up to 65 that was quiet in calibration still fits FP16 after division by s, and
# so does a weight after multiplication. The scales of real networks are between about 0.05 and 100.
SMALLEST, LARGEST = 1e-3, 1e3
INT8_MAX = 127
PIXELS_AT_ONCE = 2**18  # logits of pixels in float64: what a CPU's cache holds


def smoothing_scale(activation: Floats, weight: Floats, alpha: float) -> NDArray[np.float64]:
    """s_j = amax_j(X)^α / amax_j(W)^(1−α) per channel (eq. 4), from the two largest magnitudes, all of shape (channels,).

    α 0 moves all of the difficulty that W has to X, α 1 all of X's to W. A dead channel, one where either is 0, has
    nothing to balance and gets 1. ValueError where the shapes differ, α is outside 0–1 or a magnitude is not finite.
    """
    x, w = activation.astype(np.float64), weight.astype(np.float64)
    if x.shape != w.shape or x.ndim != 1 or not 0 <= alpha <= 1:
        raise ValueError(f"got magnitudes of shape {x.shape} and {w.shape}, alpha {alpha}")
    if not (np.isfinite(x).all() and np.isfinite(w).all()):
        raise ValueError("a channel's largest magnitude is not finite")
    alive = (x > 0) & (w > 0)
    # In logarithms, because a channel that is almost dead under- or overflows in powers.
    exponent = alpha * np.log(x, where=alive, out=np.zeros_like(x))
    exponent -= (1 - alpha) * np.log(w, where=alive, out=np.zeros_like(w))
    return np.where(alive, np.exp(np.clip(exponent, np.log(SMALLEST), np.log(LARGEST))), 1.0)


def quantize_dequantize(values: Floats, amax: Floats | float) -> NDArray[np.float64]:
    """`values` after symmetric INT8, clipped at ±`amax` (broadcast against `values`); 0 where `amax` is 0."""
    step = np.asarray(amax, dtype=np.float64) / INT8_MAX
    levels = np.divide(values, step, where=step > 0, out=np.zeros(np.broadcast(values, step).shape))
    return np.clip(np.rint(levels), -INT8_MAX, INT8_MAX) * step


def layer_error(x: Floats, weight: Floats, amax: float) -> float:
    """Mean squared error of X·W when X is INT8 per tensor with range `amax` and W per column: (n, C), (C, N) → float."""
    rounded = quantize_dequantize(weight, np.abs(weight).max(axis=0))
    difference = quantize_dequantize(x, amax) @ rounded - x.astype(np.float64) @ weight.astype(np.float64)
    return float(np.mean(np.square(difference)))


@dataclass(frozen=True)
class Distance:
    """How far logits are from a reference: mean squared error, Kullback-Leibler divergence in nats, signal to noise in dB."""

    mse: float
    kl: float
    snr_db: float


def class_rows(logits: Floats) -> Floats:
    """(N, C) as they are; a class for each pixel, (N, C, H, W), → (N · H · W, C). ValueError for another shape."""
    if logits.ndim not in (2, 4):
        raise ValueError(f"logits have shape {logits.shape}, wanted (images, classes) or (images, classes, H, W)")
    return logits if logits.ndim == 2 else np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])


def logits_distance(reference: Floats, logits: Floats) -> Distance:
    """Compare `logits` (images, classes) with `reference`, the mean over images; infinitely far where one is not finite.

    Of logits (images, classes, H, W) every pixel counts as an image.

    KL is of softmax(`reference`) from softmax(`logits`); the signal is the reference's mean square.
    """
    if reference.shape != logits.shape or 0 in reference.shape:
        raise ValueError(f"logits have shapes {reference.shape} and {logits.shape}, wanted the same images and classes")
    if not (np.isfinite(reference).all() and np.isfinite(logits).all()):
        return Distance(np.inf, np.inf, -np.inf)
    squares = divergence = power = 0.0
    for rows in _portions(reference):
        first, second = (values[rows].astype(np.float64) for values in (reference, logits))
        squares += float(np.sum(np.square(first - second)))
        p, q = _log_softmax(first), _log_softmax(second)
        divergence += float(np.sum(np.sum(np.exp(p) * (p - q), axis=1)))
        power += float(np.sum(np.square(first)))
    mse, signal = squares / reference.size, power / reference.size
    kl = divergence / (reference.size // reference.shape[1])
    if mse == 0 or signal == 0:
        return Distance(mse, kl, np.inf if mse == 0 else -np.inf)
    return Distance(mse, kl, 10 * float(np.log10(signal / mse)))


def _portions(logits: Floats) -> Iterator[slice]:
    """All images at once; with a class for each pixel, so many as are `PIXELS_AT_ONCE`. ValueError for another shape."""
    if logits.ndim not in (2, 4):
        raise ValueError(f"logits have shape {logits.shape}, wanted (images, classes) or (images, classes, H, W)")
    step = len(logits) if logits.ndim == 2 else max(1, PIXELS_AT_ONCE // logits[0].size)
    return (slice(start, start + step) for start in range(0, len(logits), step))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
