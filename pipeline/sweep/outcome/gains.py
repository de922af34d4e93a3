"""What each value of an axis gains against the first one, on average over points that differ in nothing else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import Any

from pipeline.report.values.compared import data_of, machine_name
from pipeline.sweep.outcome.engines import Engine, done_points, engines_of, sweep_words
from pipeline.sweep.outcome.outcome import SweepOutcome
from pipeline.tasks.words import Words

AVERAGED = (
    "A point's value against the axis's first one, over the pairs of points that are equal in all other axes, are both done, "
    "were evaluated on the same images by the same machine, and each have an engine that passes its gate and was timed. "
    "{score}: the arithmetic mean of the differences between the most accurate such engines of both points, percentage points. "
    "Latency: the geometric mean of the ratios between the p50 at batch 1 of their fastest such engines; below 1 is faster.",
    "Precision and backend are compared within a point: pairs of engines that differ in nothing else, both pass their gate and "
    "were timed. A precision that fails its gate in some points is averaged over the others alone.",
)


@dataclass(frozen=True)
class Gain:
    """`value` of `axis` against the value `against`: a mean over `pairs`, at least one.

    `score_pp` is a difference in percentage points, `latency_ratio` the value's latency over the other's.
    """

    axis: str
    value: Any
    against: Any
    pairs: int
    score_pp: float
    latency_ratio: float


@dataclass(frozen=True)
class _Measured:
    """The score and the latency of one side of a pair."""

    score: float
    p50: float


_Side = tuple[Any, str, _Measured]  # its value of the axis, all that must be equal, its figures


def gains_of(outcome: SweepOutcome) -> list[Gain]:
    """Of every axis, then of precision and backend, every value that has a pair with the first one."""
    words = sweep_words(outcome)
    found = [
        gain for axis, values in outcome.axes.items()
        for gain in _gains(axis, values, _points(axis, outcome, words))
    ]  # fmt: skip
    engines = [engine for engine in engines_of(outcome) if engine.counts]
    for axis, first in (("precision", "fp32"), ("backend", None)):
        names = list(dict.fromkeys(engine.variant[axis] for engine in engines))
        names.sort(key=lambda name: name != first)  # stable: fp32 comes first, the others as they were
        found += _gains(axis, names, [(e.variant[axis], _others(e, axis), _measured([e], words)) for e in engines])
    return found


def axes_without_pairs(outcome: SweepOutcome, gains: Sequence[Gain]) -> list[str]:
    """The axes that nothing is known of: no value has a pair with the first one."""
    known = {gain.axis for gain in gains}
    return [axis for axis in outcome.axes if axis not in known]


def _points(axis: str, outcome: SweepOutcome, words: Words) -> list[_Side]:
    """The points that have an engine that counts."""
    sides = []
    for point, report in done_points(outcome):
        engines = [engine for engine in (Engine(point, v) for v in report["variants"]) if engine.counts]
        if engines:
            others = {key: value for key, value in point.values.items() if key != axis}
            equal = _same([others, data_of(report), machine_name(report)])
            sides.append((point.values.get(axis), equal, _measured(engines, words)))
    return sides


def _others(engine: Engine, axis: str) -> str:
    """All that must be equal for two engines of a point to differ in `axis` alone: the other of the two, and the target."""
    variant = engine.variant
    target = variant["name"].removeprefix(f"{variant['backend']}-{variant['precision']}")
    return _same([engine.point.name, variant["backend" if axis == "precision" else "precision"], target])


def _measured(engines: Sequence[Engine], words: Words) -> _Measured:
    """The score of the most accurate, the latency of the fastest."""
    return _Measured(max(e.variant[words.score] for e in engines), min(e.p50 for e in engines))


def _same(value: Any) -> str:
    """Equal for equal plain values."""
    return json.dumps(value, sort_keys=True)


def _gains(axis: str, values: Sequence[Any], sides: Sequence[_Side]) -> list[Gain]:
    by_value: dict[str, dict[str, _Measured]] = {}
    for own, others, figures in sides:
        by_value.setdefault(_same(own), {})[others] = figures
    found = []
    for value in values[1:]:
        ours, firsts = by_value.get(_same(value), {}), by_value.get(_same(values[0]), {})
        pairs = [(ours[others], firsts[others]) for others in ours if others in firsts]
        if pairs:
            score = fmean(one.score - first.score for one, first in pairs)
            ratio = geometric_mean([one.p50 / first.p50 for one, first in pairs])
            found.append(Gain(axis, value, values[0], len(pairs), score, ratio))
    return found
