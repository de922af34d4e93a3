"""What the page's script draws of a sweep: every engine with the values of its point, to be filtered by."""

from typing import Any

from pipeline.report.page.chart import OTHER, SLOTS, chart_point
from pipeline.sweep.outcome.engines import Engine, done_points, engines_of, sweep_words
from pipeline.sweep.outcome.outcome import PointOutcome, SweepOutcome
from pipeline.sweep.outcome.texts import about, predict_command, short_name, value_text
from pipeline.tasks.words import Words


def sweep_data(outcome: SweepOutcome) -> dict[str, Any]:
    """The data of `chart_data` by backend, and: `filters` (key, values as text), `runs` (each point's values by axis), and the
    `budget` and `least` score to begin with."""
    words = sweep_words(outcome)
    reports = {point.name: report for point, report in done_points(outcome)}
    points = [_engine(outcome, engine, reports[engine.point.name], words) for engine in engines_of(outcome)]
    backends = list(dict.fromkeys(point["series"] for point in points))
    precisions = list(dict.fromkeys(point["precision"] for point in points))
    filters = [
        {"key": axis, "axis": True, "values": [value_text(value) for value in values]}
        for axis, values in outcome.axes.items()
    ]
    return {
        "seriesTitle": "Backend",
        "series": [{"name": name, "slot": SLOTS.get(name, OTHER)} for name in backends],
        "batches": sorted({size for point in points for size in point["latency"]}, key=int),
        "points": points, "levels": [], "filters": [*filters, {"key": "precision", "axis": False, "values": precisions}],
        "runs": [_values(outcome, point) for point in outcome.points],
        "budget": outcome.budget_ms, "least": outcome.min_score,
    }  # fmt: skip


def _engine(outcome: SweepOutcome, engine: Engine, report: dict[str, Any], words: Words) -> dict[str, Any]:
    run, name = engine.key
    return chart_point(report, engine.variant, engine.variant["backend"]) | {
        "run": run, "label": short_name(engine), "score": engine.variant[words.score],
        "size": engine.variant["size_bytes"], "about": about(engine, outcome.axes),
        "values": _values(outcome, engine.point) | {"precision": engine.variant["precision"]},
        "command": predict_command(outcome, run, name), "recommended": False,
    }  # fmt: skip


def _values(outcome: SweepOutcome, point: PointOutcome) -> dict[str, str]:
    return {axis: value_text(point.values.get(axis)) for axis in outcome.axes}
