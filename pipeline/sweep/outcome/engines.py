"""The engines of all points as one set: which are on the common Pareto front, and which is best within a budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calib.errors import InputError
from pipeline.report.values.compared import Compared, cautions, data_of
from pipeline.sweep.outcome.outcome import PointOutcome, SweepOutcome
from pipeline.tasks.statistics import pareto_front
from pipeline.tasks.words import CLASSIFICATION, Words, words_of


@dataclass(frozen=True)
class Engine:
    """A variant of a done point's report."""

    point: PointOutcome
    variant: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.point.name, self.variant["name"]

    @property
    def counts(self) -> bool:
        """Whether it passed its own gate and was timed: no other is on the front, or chosen."""
        return bool(self.variant["status"] == "pass" and self.variant["latency_ms"])

    @property
    def p50(self) -> float:
        """Milliseconds at batch 1, of one that was timed."""
        return float(self.variant["latency_ms"]["p50"])


def done_points(outcome: SweepOutcome) -> list[tuple[PointOutcome, dict[str, Any]]]:
    """The done points with their reports."""
    return [(point, dict(point.report)) for point in outcome.points if point.status == "done" and point.report]


def engines_of(outcome: SweepOutcome) -> list[Engine]:
    """Every variant of every done point, in order."""
    return [Engine(point, variant) for point, report in done_points(outcome) for variant in report["variants"]]


def sweep_words(outcome: SweepOutcome) -> Words:
    """Of the task of the done points; classification where none is done. InputError where they are of several tasks."""
    found = {words_of(report).task: words_of(report) for _, report in done_points(outcome)}
    if len(found) > 1:
        raise InputError(
            "points of different tasks cannot be compared", got=", ".join(sorted(found)), allowed="one task",
            next_step="a sweep for each data.task",
        )  # fmt: skip
    return next(iter(found.values()), CLASSIFICATION)


def sweep_cautions(outcome: SweepOutcome) -> list[str]:
    """What may not be read off the sweep: points that were evaluated on other images or measured on other machines."""
    compared = [Compared(point.name, report) for point, report in done_points(outcome)]
    return cautions(compared) if compared else []


def one_set(outcome: SweepOutcome) -> bool:
    """Whether all done points were evaluated on the same images; scores on different ones give no front and no winner."""
    return len({data_of(report) for _, report in done_points(outcome)}) <= 1


def front_of(outcome: SweepOutcome) -> list[Engine]:
    """The engines that no other of the sweep beats in both p50 at batch 1 and score, by rising latency."""
    words = sweep_words(outcome)
    rows = [engine for engine in engines_of(outcome) if engine.counts] if one_set(outcome) else []
    return [rows[i] for i in pareto_front([(engine.p50, engine.variant[words.score]) for engine in rows])]


def best_under(
    outcome: SweepOutcome, budget_ms: float | None, min_score: float | None
) -> tuple[PointOutcome, dict[str, Any]] | None:
    """The most accurate engine that passed its gate, takes at most `budget_ms` (p50 at batch 1) and scores at least `min_score`.

    None for either is no limit. Of equally accurate ones the faster, then the smaller. None where no engine meets both, or
    where the points were evaluated on different images.
    """
    words = sweep_words(outcome)
    fitting = [
        engine for engine in engines_of(outcome)
        if engine.counts
        and (budget_ms is None or engine.p50 <= budget_ms)
        and (min_score is None or engine.variant[words.score] >= min_score)
    ]  # fmt: skip
    if not fitting or not one_set(outcome):
        return None
    best = min(fitting, key=lambda engine: rank(engine, words))
    return best.point, best.variant


def rank(engine: Engine, words: Words) -> tuple[float, float, float]:
    """Smaller is better: the score, then the latency, then the size; a size that is not known is last."""
    size = engine.variant["size_bytes"]
    return -engine.variant[words.score], engine.p50, float("inf") if size is None else size


def fastest(engines: Sequence[Engine]) -> Engine | None:
    """The fastest that passed its gate and was timed."""
    return min((engine for engine in engines if engine.counts), key=lambda engine: engine.p50, default=None)
