import itertools
import math
from fractions import Fraction

import pytest

from pipeline.tasks.significance import detection_power, holm, images_needed, mcnemar_p, smallest_drop


def coins(gained: int, lost: int) -> Fraction:
    """The two-sided p by counting all ways that fair coins fall: twice the smaller tail, at most 1."""
    count = gained + lost
    fewest = min(gained, lost)
    ways = sum(sum(fall) <= fewest for fall in itertools.product((0, 1), repeat=count))
    return min(Fraction(1), Fraction(2 * ways, 2**count))


@pytest.mark.parametrize(("gained", "lost"), list(itertools.product(range(6), range(7))))
def test_mcnemar_is_the_count_of_all_ways_coins_fall(gained: int, lost: int) -> None:
    assert mcnemar_p(gained, lost) == pytest.approx(float(coins(gained, lost)), abs=1e-12)
    assert mcnemar_p(gained, lost) == mcnemar_p(lost, gained)


def test_mcnemar_on_published_and_large_counts() -> None:
    assert mcnemar_p(0, 5) == pytest.approx(2 / 32) and mcnemar_p(0, 6) == pytest.approx(2 / 64)
    exact = 2 * sum(math.comb(1000, k) for k in range(451)) / 2**1000
    assert mcnemar_p(450, 550) == pytest.approx(exact, rel=1e-9)
    assert mcnemar_p(0, 50_000) == 0


@pytest.mark.parametrize("counts", [(-1, 3), (3, -1)])
def test_counts_below_zero_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="counts of images"):
        mcnemar_p(*counts)


def test_holm_is_the_worked_example_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0] and holm([]) == []


def enumerated_power(images: int, changed: float, drop: float) -> float:
    """Over every outcome (gained, lost, same) of the images: its chance, where the test finds a drop."""
    gain, loss = (changed - drop) / 2, (changed + drop) / 2
    found = 0.0
    for gained in range(images + 1):
        for lost in range(images - gained + 1):
            if lost > gained and coins(gained, lost) <= Fraction(1, 20):
                ways = math.comb(images, gained) * math.comb(images - gained, lost)
                found += ways * gain**gained * loss**lost * (1 - changed) ** (images - gained - lost)
    return found


@pytest.mark.parametrize(("images", "changed", "drop"), [(6, 0.9, 0.8), (10, 0.7, 0.6), (12, 1.0, 1.0), (12, 0.5, 0.2)])
def test_power_is_that_of_all_outcomes_counted(images: int, changed: float, drop: float) -> None:
    assert detection_power(images, changed, drop) == pytest.approx(enumerated_power(images, changed, drop), abs=1e-9)


@pytest.mark.parametrize(("images", "changed"), [(4000, 0), (4000, 17), (4000, 400), (50_000, 900), (40, 3)])
def test_the_smallest_drop_is_found_with_80_percent_and_a_smaller_one_with_less(images: int, changed: int) -> None:
    drop = smallest_drop(images, changed)
    assert drop is not None
    share, wanted = changed / images, drop / 100
    assert detection_power(images, max(share, wanted), wanted) >= 0.8
    less = 0.99 * wanted
    assert detection_power(images, max(share, less), less) < 0.8


def test_more_images_see_smaller_drops_and_more_changes_hide_them() -> None:
    drops = [smallest_drop(images, images // 20) for images in (500, 2000, 8000)]
    assert drops == sorted(drops, reverse=True)
    noisy = [smallest_drop(4000, changed) for changed in (10, 100, 1000)]
    assert noisy == sorted(noisy)


def test_six_images_cannot_show_a_drop_reliably_unless_all_are_lost() -> None:
    assert smallest_drop(5, 0) is None, "five of five lost are still p = 0.0625"
    assert 95 < (smallest_drop(6, 0) or 0) <= 100


def test_connors_formula_agrees_with_the_exact_power_where_many_images_change() -> None:
    drop = smallest_drop(4000, 400)
    assert drop is not None and images_needed(drop, 0.1) == pytest.approx(4000, rel=0.05)
    # by hand: ((1.95996·√0.1 + 0.84162·√(0.1 − 0.0001)) / 0.01)² = 7846.5
    assert images_needed(1.0, 0.1) == 7847
    assert images_needed(1.0, 0.0) == 800, "8 losses of 1 %"
