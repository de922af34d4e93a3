"""Sensitivity's measures against scipy and literal loops; what is quantized alone, and how layers are grouped."""

import math

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from calib.precision import smoothing
from calib.precision.policy import Decision, Layer
from calib.precision.sensitivity import (
    NOT_FINITE,
    Effect,
    alone,
    fingerprint,
    group_of,
    make_groups,
    measure_effect,
    summarise,
)
from calib.precision.smoothing import class_rows


def layer(name: str, module: str = "", role: str = "", skip: int = 0) -> Layer:
    return Layer(name, "MatMul", module, (), (8, 8), False, role=role, skip=skip)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", [0.001, 0.3, 5.0])
def test_measures_against_scipy_and_a_literal_loop(noise: float) -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(0, 3, (50, 7)).astype(np.float32)
    logits = (reference + generator.normal(0, noise, reference.shape)).astype(np.float32)
    effect = measure_effect(reference, logits)
    p, q = softmax(reference.astype(np.float64), axis=1), softmax(logits.astype(np.float64), axis=1)
    signal = error = same = 0.0
    for first, second in zip(reference.tolist(), logits.tolist(), strict=True):
        same += max(range(7), key=first.__getitem__) == max(range(7), key=second.__getitem__)
        for a, b in zip(first, second, strict=True):
            signal += a * a
            error += (a - b) * (a - b)
    assert effect.kl == pytest.approx(np.mean(entropy(p, q, axis=1)), rel=1e-9)
    assert effect.snr_db == pytest.approx(10 * math.log10(signal / error), rel=1e-9)
    assert effect.agreement == pytest.approx(100 * same / 50)


def test_kl_has_a_direction_and_does_not_see_a_common_shift() -> None:
    reference, logits = np.array([[4.0, 0.0]], np.float32), np.array([[0.0, 0.0]], np.float32)
    there, back = measure_effect(reference, logits).kl, measure_effect(logits, reference).kl
    assert there == pytest.approx(math.log(2) - entropy(softmax([4.0, 0.0]))) and back != pytest.approx(there)
    shifted = measure_effect(reference, reference + 2)
    assert shifted.kl == pytest.approx(0, abs=1e-12) and shifted.snr_db is not None and shifted.agreement == 100


def test_of_a_class_for_each_pixel_every_pixel_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rows of pixels, all at once; in portions of few images, because float64 of all of them would be gigabytes."""
    generator = np.random.default_rng(3)
    reference = generator.normal(0, 3, (7, 4, 6, 5)).astype(np.float32)
    logits = (reference + generator.normal(0, 0.5, reference.shape)).astype(np.float32)
    monkeypatch.setattr(smoothing, "PIXELS_AT_ONCE", 2 * reference[0].size)
    effect, rows = measure_effect(reference, logits), measure_effect(class_rows(reference), class_rows(logits))
    assert (effect.kl, effect.snr_db) == pytest.approx((rows.kl, rows.snr_db), rel=1e-12)
    assert effect.agreement == rows.agreement < 100
    logits[6, 1, 2, 3] = np.inf
    assert measure_effect(reference, logits).kl is None
    with pytest.raises(ValueError, match="wanted"):
        measure_effect(reference[..., 0], logits[..., 0])


def test_equal_and_broken_logits() -> None:
    reference = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    assert measure_effect(reference, reference.copy()) == Effect(0.0, None, 100.0)
    broken = reference.copy()
    broken[2, 1] = np.nan
    assert measure_effect(reference, broken).kl is None
    with pytest.raises(ValueError, match="shapes"):
        measure_effect(reference, reference[:2])


def test_quantized_alone() -> None:
    assert (alone(layer("a")).inputs, alone(layer("a")).output) == ((0, 1), False)
    assert (alone(layer("a", role="scores")).inputs, alone(layer("a", role="scores")).output) == ((0, 1), False)
    assert (alone(layer("a", role="context")).inputs, alone(layer("a", role="context")).output) == ((0, 1), True)
    assert (alone(layer("a", role="residual", skip=1)).inputs, alone(layer("a", role="residual")).output) == (
        (1,), False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "role", "group"),
    [
        ("blocks.0.attn.qkv", "", "blocks.*.attn.qkv"),
        ("blocks.11.attn", "scores", "blocks.*.attn (scores)"),
        ("layer1.0.downsample.0", "", "layer1.*.downsample.*"),
        ("tokens_to_token.attention1", "residual", "tokens_to_token.attention1 (residual)"),
        ("3", "", "*"),
        ("", "", "node_7"),
    ],
)
def test_groups(module: str, role: str, group: str) -> None:
    assert group_of(layer("node_7", module, role)) == group


def test_groups_keep_the_order_of_the_graph() -> None:
    decisions = [alone(layer(name, module)) for name, module in (("a", "b.0.fc"), ("b", "head"), ("c", "b.1.fc"))]
    groups = make_groups(decisions)
    assert [(name, [d.layer.name for d in members]) for name, members in groups.items()] == [
        ("b.*.fc", ["a", "c"]), ("head", ["b"]),
    ]  # fmt: skip


def test_fingerprint_depends_on_every_value_and_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_what_cannot_be_measured_is_listed_with_the_reason() -> None:
    decisions = [alone(layer("a", "x.0")), alone(layer("b", "x.1")), Decision(layer("c", "y"), "always zero")]
    fine, broken = Effect(0.5, 20.0, 90.0), Effect(None, None, 10.0)
    study = summarise(decisions, {"a": fine, "b": broken}, {"x.*": broken})
    assert study["layers"] == [
        {"node": "a", "module": "x.0", "role": "", "operator": "MatMul", "group": "x.*", "kl": 0.5, "snr_db": 20.0,
         "agreement": 90.0}
    ]  # fmt: skip
    assert [(row["node"], row["reason"]) for row in study["left_out"]] == [("b", NOT_FINITE), ("c", "always zero")]
    assert study["groups"] == []
    assert study["groups_left_out"] == [{"group": "x.*", "nodes": ["a", "b"], "reason": NOT_FINITE}]
