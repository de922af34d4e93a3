"""What is rounding and what is wrong."""

import numpy as np
import pytest

from export.faults.rounding import HIGHEST_DB, LOWEST_DB, allowed_db, snr_db

REFERENCE = np.random.default_rng(0).normal(0, 1, (8, 4096)).astype(np.float32)


def on_grid(values: np.ndarray, steps: int) -> np.ndarray:
    """Quantized with so many steps of each sign."""
    scale = np.abs(values).max() / steps
    return np.asarray(np.rint(values / scale) * scale, dtype=np.float32)


def test_the_ratio_is_that_of_powers() -> None:
    assert snr_db(REFERENCE * np.float32(1.1), REFERENCE) == pytest.approx(20, abs=1e-3)
    assert snr_db(REFERENCE * 0, REFERENCE) == 0
    assert snr_db(REFERENCE, REFERENCE) == np.inf and snr_db(REFERENCE * 0, REFERENCE * 0) == np.inf
    assert snr_db(REFERENCE, REFERENCE * 0) == -np.inf


def test_what_is_not_finite() -> None:
    broken, mask = REFERENCE.copy(), REFERENCE.copy()
    broken[0, 0], mask[0, 0] = np.nan, -np.inf
    assert snr_db(broken, REFERENCE) == -np.inf
    assert snr_db(mask, mask) == np.inf  # an attention's mask
    assert snr_db(REFERENCE, mask) == -np.inf and snr_db(-mask, mask) == -np.inf


def test_shapes_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="not of one tensor"):
        snr_db(REFERENCE[:1], REFERENCE)


def test_rounding_passes_and_a_wrong_sum_does_not() -> None:
    """Eight bits against the same values in floating point; then half a step aside, 7 bits, a lost addend, zeros."""
    quantized = on_grid(REFERENCE, 127)
    allowed = allowed_db(quantized, REFERENCE)
    step = np.abs(REFERENCE).max() / 127
    aside = on_grid(REFERENCE + step * np.random.default_rng(1).uniform(-0.5, 0.5, REFERENCE.shape), 127)
    for right in (aside, on_grid(REFERENCE, 63), REFERENCE):
        assert snr_db(right, quantized) > allowed
    one_channel = quantized.copy()
    one_channel[:, ::64] = 0
    for wrong in (quantized * 0, -quantized, one_channel, quantized + REFERENCE[::-1] * np.float32(0.1)):
        assert snr_db(wrong, quantized) < allowed


def test_the_bounds() -> None:
    assert allowed_db(REFERENCE, REFERENCE) == HIGHEST_DB
    assert allowed_db(REFERENCE, -REFERENCE) == LOWEST_DB
