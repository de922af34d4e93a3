"""The measure of channels against a plain loop over values, and the readings by hand."""

import itertools
import math

import numpy as np
import pytest

from calib.precision.channels import (
    ChannelMeasure,
    ChannelMeter,
    Layout,
    channel_maps,
    choose_channels,
    evenly_spaced,
    find_layout,
)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((64, 16, 16), Layout(1, 64, (16, 16))),
        ((16, 16, 64), Layout(3, 64, (16, 16))),
        ((16, 16, 16), Layout(1, 16, (16, 16))),
        ((64, 12, 16), Layout(1, 64, (12, 16))),
        ((196, 384), Layout(2, 384, (14, 14))),
        ((197, 384), Layout(2, 384, (14, 14), 1)),
        ((198, 384), Layout(2, 384, (14, 14), 2)),
        ((201, 384), Layout(2, 384, (14, 14), 5)),
        ((202, 384), None),
        ((5, 8), Layout(2, 8, (2, 2), 1)),
        ((6, 8), None),
        ((1, 8), None),
        ((512, 1, 1), None),
        ((512,), None),
        ((), None),
        ((3, 14, 14, 64), None),
    ],
)
def test_layouts(shape: tuple[int, ...], layout: Layout | None) -> None:
    assert find_layout(shape) == layout


@pytest.mark.parametrize("shape", [(5, 3, 4), (4, 4, 7), (9, 6), (10, 6), (18, 6)])
def test_maps_put_every_value_in_its_place(shape: tuple[int, ...]) -> None:
    tensor = np.arange(math.prod(shape), dtype=np.float32).reshape(1, *shape)
    layout = find_layout(shape)
    assert layout is not None
    maps = channel_maps(tensor, layout)
    rows, columns = layout.grid
    assert maps.shape == (layout.channels, rows, columns)
    for channel, row, column in itertools.product(range(layout.channels), range(rows), range(columns)):
        if layout.axis == 1:
            expected = tensor[0, channel, row, column]
        elif layout.axis == 3:
            expected = tensor[0, row, column, channel]
        else:
            expected = tensor[0, shape[0] - rows * columns + row * columns + column, channel]
        assert maps[channel, row, column] == expected


def measure_with_loops(reference: np.ndarray, engine: np.ndarray, axis: int) -> list[dict[str, float]]:
    """Each channel's numbers from its values one by one."""
    found = []
    for ours, theirs in zip(np.moveaxis(reference, axis, 0), np.moveaxis(engine, axis, 0), strict=True):
        pairs = [(float(a), float(b)) for a, b in zip(ours.ravel(), theirs.ravel(), strict=True)]
        finite = [(a, b) for a, b in pairs if math.isfinite(a)]
        found.append(
            {
                "amax": max(abs(a) for a, _ in finite),
                "mean_abs": math.fsum(abs(a) for a, _ in finite) / len(finite),
                "zeros": sum(a == 0 for a, _ in finite) / len(pairs),
                "not_finite": len(pairs) - len(finite),
                "error_power": math.fsum((a - b) ** 2 for a, b in finite if math.isfinite(b)),
                "power": math.fsum(a * a for a, _ in finite),
                "engine_not_finite": sum(not math.isfinite(b) for _, b in finite),
            }
        )
    return found


@pytest.mark.parametrize("shape", [(6, 4, 5), (5, 5, 6), (17, 6)])
def test_measures_what_a_loop_over_the_values_does(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(7, *shape)).astype(np.float32)
    engine = reference + generator.normal(scale=0.1, size=reference.shape).astype(np.float32)
    reference[np.abs(reference) < 0.3] = 0  # as after a ReLU
    reference[1, 2, 3], reference[6, -1, -1], engine[0, 0, 0] = np.nan, -np.inf, np.inf
    layout = find_layout(shape)
    assert layout is not None
    meter = ChannelMeter(layout)
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        meter.add(reference[start:stop], engine[start:stop])
    measure, loops = meter.measure(), measure_with_loops(reference, engine, layout.axis)
    for name in ("amax", "mean_abs", "zeros", "not_finite", "error_power"):
        ours, expected = getattr(measure, name), np.array([row[name] for row in loops])
        difference = np.abs(ours - expected) / np.maximum(np.abs(expected), 1e-12)
        assert difference.max() < 1e-6, f"{name}: max {difference.max():.2e}, mean {difference.mean():.2e}"
    power = math.fsum(row["power"] for row in loops)
    assert measure.power == pytest.approx(power, rel=1e-9)
    assert measure.engine_not_finite == sum(row["engine_not_finite"] for row in loops) > 0
    assert measure.snr_db is None and measure.relative_error is None  # an infinity has no ratio
    assert set(measure.exploding) == {index for index, row in enumerate(loops) if row["not_finite"]}


def measured(amax: list[float], error: list[float] | None = None, power: float = 1.0) -> ChannelMeasure:
    """A measure with these largest values."""
    array = np.array(amax)
    power_of_error = None if error is None else np.array(error)
    return ChannelMeasure(array, array / 2, array * 0, np.zeros(len(amax), dtype=np.int64), power, power_of_error)


def test_int8_levels_by_hand() -> None:
    """Median of 1, 2, 4, 100 is 3, so 127 · 3/100 levels; without the 100, the median of 1, 2, 4 is 2: 127 · 2/4."""
    measure = measured([1, 100, 2, 4])
    assert measure.median_amax == 3
    assert measure.levels == pytest.approx(3.81) and measure.levels_without == pytest.approx(63.5)
    assert measure.scale_setters == [1] and measure.exploding == [1] and measure.dead == []


def test_scale_setters_are_over_half_of_the_largest_largest_first() -> None:
    assert measured([1, 5, 10, 6, 10.5, 1]).scale_setters == [4, 2, 3]
    assert measured([3, 3, 3]).scale_setters == [0, 1, 2] and measured([3, 3, 3]).levels_without is None


@pytest.mark.parametrize(
    ("amax", "dead", "exploding"),
    [
        ([1, 1, 1, 20], [], []),
        ([1, 1, 1, 20.01], [], [3]),
        ([1, 0, 1, 1], [1], []),
        ([1, 0.9e-6, 1, 1], [1], []),
        ([1, 1.1e-6, 1, 1], [], []),
        ([0, 0, 0, 5, 5, 5], [0, 1, 2], []),  # more dead than alive: the alive ones do not explode for that
        ([0, 0, 0], [0, 1, 2], []),
    ],
)
def test_dead_and_exploding(amax: list[float], dead: list[int], exploding: list[int]) -> None:
    measure = measured(amax)
    assert (measure.dead, measure.exploding) == (dead, exploding)


def test_a_tensor_of_zeros_has_no_levels() -> None:
    measure = measured([0, 0, 0], [0, 0, 0], power=0)
    assert measure.levels is None and measure.levels_without is None and measure.relative_error is None


def test_snr_and_error_shares() -> None:
    measure = measured([1, 1, 1], [0.03, 0.01, 0.0], power=4.0)
    assert measure.error_share is not None
    assert measure.error_share.tolist() == pytest.approx([0.75, 0.25, 0])
    assert measure.relative_error == pytest.approx(0.1) and measure.snr_db == pytest.approx(20)
    same = measured([1, 1], [0.0, 0.0])
    assert same.relative_error == 0 and same.snr_db is None
    assert measured([1, 1]).error_share is None and measured([1, 1]).snr_db is None


@pytest.mark.parametrize(
    ("amax", "count", "chosen"),
    [
        ([1] * 9, 5, [0, 2, 4, 6, 8]),
        ([1] * 3, 16, [0, 1, 2]),
        ([1] * 9, 1, [0]),
        ([1] * 8 + [50], 3, [0, 7, 8]),
        ([1, 0, 1, 1, 90, 1, 80, 1, 1, 1, 1], 4, [0, 1, 4, 6]),
        ([0] * 6 + [1] * 6, 4, [0, 1, 6, 11]),  # dead ones: half of the places
        ([0] * 6 + [1], 4, [0, 1, 2, 6]),  # unless nothing else is there
        ([1] * 30 + [50, 70, 60], 2, [31, 32]),  # the worst
    ],
)
def test_marked_channels_are_shown(amax: list[float], count: int, chosen: list[int]) -> None:
    assert choose_channels(measured(amax), count) == chosen


def test_evenly_spaced_keeps_the_ends() -> None:
    for length, count in itertools.product(range(2, 40), range(2, 12)):
        found = evenly_spaced(range(length), count)
        assert found[0] == 0 and found[-1] == length - 1 and len(found) == min(length, count)
        assert found == sorted(set(found))
        steps = np.diff(found)
        assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize(
    ("reference", "engine", "message"),
    [
        ((2, 5, 6), None, r"of 4 channels was expected, got \(2, 5, 6\)"),
        ((2, 9, 4), (2, 10, 4), r"the engine's tensor is \(2, 10, 4\), FP32's \(2, 9, 4\)"),
    ],
)
def test_wrong_tensors(reference: tuple[int, ...], engine: tuple[int, ...] | None, message: str) -> None:
    meter = ChannelMeter(Layout(2, 4, (3, 3)))
    with pytest.raises(ValueError, match=message):
        meter.add(np.zeros(reference), None if engine is None else np.zeros(engine))


def test_nothing_measured() -> None:
    with pytest.raises(ValueError, match="no batch was measured"):
        ChannelMeter(Layout(2, 4, (3, 3))).measure()
