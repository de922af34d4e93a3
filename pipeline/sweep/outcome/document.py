"""sweep.json: the outcome as plain values, without what a report tells of single images and calls."""

from dataclasses import asdict
from typing import Any

from pipeline.report.values.results import short_report
from pipeline.sweep.outcome.engines import best_under, front_of, sweep_cautions, sweep_words
from pipeline.sweep.outcome.gains import gains_of
from pipeline.sweep.outcome.outcome import PointOutcome, SweepOutcome
from pipeline.sweep.outcome.texts import predict_command
from pipeline.tasks.words import task_key


def sweep_document(outcome: SweepOutcome) -> dict[str, Any]:
    """What sweep.json holds (see `SweepDocument`): the outcome, and then the conclusions that follow from it."""
    best = best_under(outcome, outcome.budget_ms, outcome.min_score)
    return {
        "schema": 1, "name": outcome.name, "base": outcome.base, "runs": outcome.runs, **task_key(sweep_words(outcome)),
        "axes": {axis: list(values) for axis, values in outcome.axes.items()},
        "budget_ms": outcome.budget_ms, "min_score": outcome.min_score, "seconds": round(outcome.seconds, 1),
        "stages": {name: {"made": made, "shared": shared} for name, (made, shared) in outcome.stages.items()},
        "points": [_point(point) for point in outcome.points],
        "front": [{"point": engine.point.name, "engine": engine.variant["name"]} for engine in front_of(outcome)],
        "best": None if best is None else {
            "point": best[0].name, "engine": best[1]["name"],
            "command": predict_command(outcome, best[0].name, best[1]["name"]),
        },
        "gains": [asdict(gain) for gain in gains_of(outcome)],
        "cautions": sweep_cautions(outcome),
    }  # fmt: skip


def _point(point: PointOutcome) -> dict[str, Any]:
    return {
        "name": point.name, "values": dict(point.values), "status": point.status, "reason": point.reason, "stage": point.stage,
        "seconds": round(point.seconds, 1), "probe_ms": None if point.probe_ms is None else dict(point.probe_ms),
        "report": None if point.report is None else short_report(dict(point.report)),
    }  # fmt: skip


def outcome_of(document: dict[str, Any]) -> SweepOutcome:
    """The outcome that a checked sweep.json is of."""
    keys = ("name", "values", "status", "reason", "stage", "report", "probe_ms", "seconds")
    return SweepOutcome(
        name=document["name"], base=document["base"], axes=document["axes"],
        points=[PointOutcome(**{key: point[key] for key in keys}) for point in document["points"]],
        budget_ms=document["budget_ms"], min_score=document["min_score"], seconds=document["seconds"],
        stages={name: (count["made"], count["shared"]) for name, count in document["stages"].items()},
        runs=document["runs"],
    )  # fmt: skip
