"""sweep.csv: a row for every engine of every point, and one for each point that has none."""

import csv
import io
from typing import Any

from pipeline.console.figures import one_line
from pipeline.sweep.outcome.engines import Engine, engines_of, front_of, sweep_words
from pipeline.sweep.outcome.outcome import PointOutcome, SweepOutcome
from pipeline.sweep.outcome.texts import value_text


def sweep_csv(outcome: SweepOutcome) -> str:
    """The table as text; an empty cell where nothing was measured. Percent, milliseconds, bytes, unrounded."""
    words, front = sweep_words(outcome), {engine.key for engine in front_of(outcome)}
    by_point: dict[str, list[Engine]] = {}
    for engine in engines_of(outcome):
        by_point.setdefault(engine.point.name, []).append(engine)
    scores = (words.score, words.second, words.delta)
    heads = ["point", *outcome.axes, "status", "stage", "reason", "engine", "backend", "precision", "gate", "engine_reason",
             *scores, "agreement", "p50_ms", "p90_ms", "p99_ms", "images_per_s_b1", "size_bytes", "peak_memory_bytes",
             "energy_mj", "on_front", "sha256"]  # fmt: skip
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, heads, restval="", lineterminator="\n")
    writer.writeheader()
    for point in outcome.points:
        own = _about_point(outcome, point)
        rows = [
            _about_engine(engine, scores) | {"on_front": _yes(engine.key in front)}
            for engine in by_point.get(point.name, [])
        ]
        writer.writerows([own | row for row in rows] or [own])
    return buffer.getvalue()


def _about_point(outcome: SweepOutcome, point: PointOutcome) -> dict[str, Any]:
    values = {axis: value_text(point.values[axis]) if axis in point.values else "" for axis in outcome.axes}
    reason = one_line(point.reason or "")
    return values | {"point": point.name, "status": point.status, "stage": point.stage, "reason": reason}


def _about_engine(engine: Engine, scores: tuple[str, ...]) -> dict[str, Any]:
    variant = engine.variant
    latency, rates = variant["latency_ms"] or {}, variant["images_per_s"] or {}
    kept = (*scores, "agreement", "backend", "precision", "size_bytes", "peak_memory_bytes", "energy_mj", "sha256")
    return {key: variant[key] for key in kept} | {
        "engine": variant["name"], "gate": variant["status"], "engine_reason": one_line(variant["reason"]),
        **{f"{p}_ms": latency.get(p) for p in ("p50", "p90", "p99")}, "images_per_s_b1": rates.get("1"),
    }  # fmt: skip


def _yes(value: bool) -> str:
    return "yes" if value else "no"
