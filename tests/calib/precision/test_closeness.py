"""When two sets of logits are the same but for rounding."""

import numpy as np
import pytest

from calib.precision.closeness import compare_logits

LOGITS = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)


def rounded(logits: np.ndarray, error: float) -> np.ndarray:
    """`logits` with a random relative error."""
    draw = np.random.default_rng(1).uniform(-error, error, logits.shape)
    return (logits.astype(np.float64) * (1 + draw)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e14])
def test_rounding_is_the_same_at_any_scale(scale: float) -> None:
    found = compare_logits(LOGITS * np.float32(scale), rounded(LOGITS * np.float32(scale), 1e-6))
    assert found.same and found.snr_db > 115 and found.agreement == 100, found


@pytest.mark.parametrize("scale", [1e-1, 1.0, 1e14])
def test_an_error_of_a_hundredth_is_not(scale: float) -> None:
    found = compare_logits(LOGITS * np.float32(scale), rounded(LOGITS * np.float32(scale), 1e-2))
    assert not found.near and not found.same and found.snr_db < 50, found
    assert f"{found.snr_db:.1f} dB" in str(found) and f"{found.relative:.1e}" in str(found)


def test_one_wrong_logit_is_seen() -> None:
    """The SNR of many images hides it, the relative error does not."""
    logits = np.tile(LOGITS, (50, 1))
    wrong = logits.copy()
    wrong[7, 3] += 0.01
    found = compare_logits(logits, wrong)
    assert found.snr_db > 90 and not found.near, found


def test_two_logits_within_rounding_of_each_other_are_a_tie() -> None:
    logits = np.tile(np.array([[1e9, 1e9 - 1e3, 0]], np.float32), (4, 1))
    other = logits.copy()
    other[2] = [1e9 - 2e3, 1e9, 0]
    found = compare_logits(logits, other)
    assert found.same and (found.agreement, found.ties) == (100, 1), found
    assert "(ties: 1)" in str(found)


def test_another_class_is_a_disagreement() -> None:
    logits = np.tile(np.array([[1.0, 0.999, 0]], np.float32), (4, 1))
    other = logits.copy()
    other[2] = [0.9985, 0.9995, 0]
    found = compare_logits(logits, other)
    assert not found.same and (found.agreement, found.ties) == (75, 0), found


def test_logits_of_nothing_are_nothing() -> None:
    """As those of a classifier that starts with zeros."""
    zeros = np.zeros((3, 5), np.float32)
    assert compare_logits(zeros, zeros).same
    assert compare_logits(zeros, zeros + np.float32(1e-8)).same
    assert not compare_logits(zeros, zeros + np.float32(1e-2)).near


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_not_finite_is_never_the_same(odd: float) -> None:
    broken = LOGITS.copy()
    broken[0, 0] = odd
    for reference, logits in ((LOGITS, broken), (broken, LOGITS), (broken, broken)):
        found = compare_logits(reference, logits)
        assert not found.near and found.agreement < 100, found


def test_other_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match="shapes"):
        compare_logits(LOGITS, LOGITS[:, :3])
