import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from pipeline.tasks.statistics import (
    accuracy,
    agreement,
    correct_rows,
    finite_fraction,
    paired_interval,
    pareto_front,
)


def _logits(images: int = 400, classes: int = 7, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(images, classes)), generator.integers(0, classes, images)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_accuracy_is_the_share_of_labels_among_the_k_largest(k: int) -> None:
    logits, labels = _logits()
    largest = np.argsort(-logits, axis=1)[:, :k]
    by_hand = 100 * np.mean([label in row for label, row in zip(labels, largest, strict=True)])
    assert accuracy(logits, labels, k) == pytest.approx(by_hand)


def test_k_beyond_the_classes_makes_every_finite_row_right() -> None:
    logits, labels = _logits(classes=3)
    assert accuracy(logits, labels, 5) == 100
    logits[0, 0] = np.nan
    assert accuracy(logits, labels, 5) == pytest.approx(100 * 399 / 400)


def test_a_constant_output_is_right_about_class_0_only() -> None:
    labels = np.array([0, 1, 2, 3])
    assert accuracy(np.ones((4, 4)), labels, 1) == 25
    assert accuracy(np.ones((4, 4)), labels, 2) == 50


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_wrong_and_never_agrees(bad: float) -> None:
    logits = np.array([[9.0, 0, 0], [9.0, 0, 0]])
    broken = logits.copy()
    broken[0, 2] = bad
    assert accuracy(broken, np.array([0, 0]), 1) == 50
    assert agreement(broken, logits) == agreement(logits, broken) == agreement(broken, broken) == 50
    assert finite_fraction(broken) == 0.5


def test_all_nan_scores_0_although_argmax_says_class_0() -> None:
    nan = np.full((10, 4), np.nan, dtype=np.float16)
    assert accuracy(nan, np.zeros(10, dtype=np.int64), 1) == 0
    assert accuracy(nan, np.zeros(10, dtype=np.int64), 4) == 0
    assert agreement(nan, nan) == 0
    assert finite_fraction(nan) == 0


def test_agreement_is_the_share_of_equal_top_1() -> None:
    a, _ = _logits(seed=1)
    b, _ = _logits(seed=2)
    mixed = np.where(np.arange(400)[:, None] < 300, a, b)
    by_hand = 100 * np.mean([np.argmax(x) == np.argmax(y) for x, y in zip(a, mixed, strict=True)])
    assert agreement(a, mixed) == pytest.approx(by_hand)
    assert agreement(a, a) == 100


@pytest.mark.parametrize(("gained", "lost"), [(12, 30), (0, 9), (25, 25), (3, 0)])
def test_paired_interval_is_scipys_paired_bootstrap(gained: int, lost: int) -> None:
    a, b = np.ones(1000, dtype=bool), np.ones(1000, dtype=bool)
    b[:gained] = False
    a[gained : gained + lost] = False
    expected = bootstrap(
        (a.astype(float), b.astype(float)), lambda x, y, axis: 100 * (x.mean(axis) - y.mean(axis)),
        paired=True, vectorized=True, n_resamples=10000, method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    # Both are Monte Carlo on a grid of 0.1 pp: two steps of the grid is what chance may move an end by.
    assert paired_interval(a, b) == pytest.approx((expected.low, expected.high), abs=0.2)


def test_paired_interval_covers_the_difference_about_95_times_in_100() -> None:
    generator = np.random.default_rng(3)
    shares, covered = np.array([0.03, 0.05, 0.92]), 0
    for seed in range(300):
        kind = generator.choice(3, size=2000, p=shares)
        low, high = paired_interval(kind != 1, kind != 0, seed=seed, resamples=1000)
        covered += low <= -2.0 <= high
    assert 0.91 * 300 <= covered <= 0.985 * 300, f"{covered} of 300 intervals cover the true difference"


def test_paired_interval_swaps_sign_repeats_with_its_seed_and_is_0_where_nothing_differs() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random(500) < 0.8, generator.random(500) < 0.8
    low, high = paired_interval(a, b)
    assert low <= 100 * (a.mean() - b.mean()) <= high
    back = paired_interval(b, a)
    assert back == pytest.approx((-high, -low), abs=0.61)
    assert paired_interval(a, b) == (low, high)
    assert paired_interval(a, a) == (0, 0)
    assert paired_interval(np.ones(5, dtype=bool), np.zeros(5, dtype=bool)) == (100, 100)


def test_pairing_is_tighter_than_ignoring_it() -> None:
    generator = np.random.default_rng(5)
    a = generator.random(5000) < 0.85
    b = a.copy()
    b[:20] = ~b[:20]
    low, high = paired_interval(a, b)
    assert high - low < 0.5, "20 of 5,000 images differ"
    shuffled = paired_interval(a, generator.permutation(b))
    assert shuffled[1] - shuffled[0] > 3 * (high - low)


def _beaten(point: tuple[float, float], points: list[tuple[float, float]]) -> bool:
    return any(x <= point[0] and y >= point[1] and (x, y) != point for x, y in points)


def test_pareto_front_is_what_nothing_beats() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        points = [(float(x), float(y)) for x, y in generator.integers(0, 6, (12, 2))]  # small range: many ties
        front = pareto_front(points)
        assert set(front) == {i for i, point in enumerate(points) if not _beaten(point, points)}, points
        assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_pareto_front_of_none_and_of_equal_points() -> None:
    assert pareto_front([]) == []
    assert pareto_front([(1.0, 80.0), (1.0, 80.0), (2.0, 80.0)]) == [0, 1]


LOGITS, LABELS = np.zeros((2, 3)), np.array([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy(np.zeros(3), LABELS, 1), r"shape \(3,\)"),
        (lambda: accuracy(np.zeros((0, 3)), np.zeros(0, int), 1), r"shape \(0, 3\)"),
        (lambda: accuracy(LOGITS, np.array([0, 1, 2]), 1), "labels are int64"),
        (lambda: accuracy(LOGITS, np.array([0.0, 1.0]), 1), "labels are float64"),
        (lambda: accuracy(LOGITS, np.array([0, 3]), 1), "from 0 to 3, wanted 0 to 2"),
        (lambda: accuracy(LOGITS, np.array([-1, 1]), 1), "from -1 to 1"),
        (lambda: accuracy(LOGITS, LABELS, 0), "k is 0"),
        (lambda: agreement(LOGITS, np.zeros((2, 4))), r"\(2, 3\) and \(2, 4\)"),
        (lambda: paired_interval(LABELS, LABELS), "two bool arrays"),
        (lambda: paired_interval(LABELS == 0, np.array([True])), "of one length"),
        (lambda: paired_interval(np.zeros(0, bool), np.zeros(0, bool)), "0 images"),
        (lambda: pareto_front([(1.0, float("nan"))]), "must be finite"),
    ],
)
def test_wrong_input_says_what_was_wanted(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_correct_rows_marks_each_image() -> None:
    assert correct_rows(np.array([[1, 2], [2, 1], [np.nan, 1]]), np.array([1, 1, 1])).tolist() == [True, False, False]
