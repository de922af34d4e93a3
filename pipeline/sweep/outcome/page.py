"""sweep.html: the front over all points and engines, filtered by axis, of the same parts as a report's page."""

from pathlib import Path
from typing import Any

from pipeline.console.figures import MISSING, counted, duration, number, quantity
from pipeline.report.page.chart import chart_section, picture_text
from pipeline.report.page.engines import EngineRow, engines_section
from pipeline.report.page.frame import page
from pipeline.report.page.latency import latency_section
from pipeline.report.page.page import machine_rows
from pipeline.report.page.render import Section, render_in, section
from pipeline.report.values.format import headed
from pipeline.sweep.outcome.chart import sweep_data
from pipeline.sweep.outcome.engines import (
    Engine,
    best_under,
    done_points,
    engines_of,
    fastest,
    front_of,
    sweep_cautions,
    sweep_words,
)
from pipeline.sweep.outcome.gains import AVERAGED, axes_without_pairs, gains_of
from pipeline.sweep.outcome.outcome import PointOutcome, SweepOutcome
from pipeline.sweep.outcome.texts import (
    conclusion,
    counts_text,
    happened,
    predict_command,
    short_name,
    stages_text,
    unfinished,
    value_text,
)
from pipeline.tasks.words import Words

_TEMPLATES, _ASSETS = Path(__file__).parent / "templates", Path(__file__).parent / "assets"


def sweep_page(outcome: SweepOutcome, picture: bytes) -> str:
    """The whole page; `picture` (PNG) is for readers without a script. It loads nothing."""
    words, front, engines = sweep_words(outcome), front_of(outcome), engines_of(outcome)
    best = best_under(outcome, outcome.budget_ms, outcome.min_score)
    on_front, chosen = {engine.key for engine in front}, (best[0].name, best[1]["name"]) if best else None
    rows = [
        EngineRow(engine.variant | {"pareto": engine.key in on_front}, _under(engine), engine.key == chosen)
        for engine in engines
    ]
    named = [engine.variant | {"name": short_name(engine), "pareto": True} for engine in front]
    sections = [
        chart_section(picture, picture_text(named, words)) if engines else None,
        _front(outcome, front, words) if engines else None,
        _gains(outcome, words),
        _unfinished(outcome),
        _points(outcome, words),
        engines_section(rows, "its point's FP32", words, "of the sweep") if engines else None,
        latency_section(named),
        _how(outcome),
        _machines(outcome),
    ]
    return page(f"Sweep {outcome.name}", _header(outcome), sections, sweep_data(outcome), words, _ASSETS)


def _under(engine: Engine) -> str:
    return f"{engine.point.name} · {engine.variant['backend']} · {engine.variant['precision']}"


def _header(outcome: SweepOutcome) -> Any:
    text, command, good = conclusion(outcome)
    engines, front = engines_of(outcome), front_of(outcome)
    done = len(done_points(outcome))
    budget = "none" if outcome.budget_ms is None else f"{outcome.budget_ms:g} ms"
    least = "none" if outcome.min_score is None else f"{outcome.min_score:g} %"
    passing = sum(engine.variant["status"] == "pass" for engine in engines)
    facts = [
        (
            "Points done",
            f"{done} of {len(outcome.points)}",
            counts_text(outcome).partition(" done")[2].lstrip(", ") or "none failed",
        ),
        ("Engines", f"{passing} of {len(engines)} pass", f"{len(front)} on the front"),
        ("Latency budget", budget, "p50 at batch 1"),
        (f"Least {sweep_words(outcome).score_name}", least, "of an engine"),
        ("Time", duration(outcome.seconds), "of the last call"),
    ]
    return render_in(
        _TEMPLATES, "sweep_header.html", outcome=outcome, conclusion=text, command=command, good=good, facts=facts,
        cautions=sweep_cautions(outcome),
    )  # fmt: skip


def _front(outcome: SweepOutcome, front: list[Engine], words: Words) -> Section:
    rows = [
        {
            "point": engine.point.name, "engine": engine.variant["name"],
            "figures": (number(engine.variant[words.score]), quantity(engine.p50)),
            "chosen": [value_text(engine.point.values.get(axis)) for axis in outcome.axes],
            "command": predict_command(outcome, *engine.key),
        }
        for engine in front
    ]  # fmt: skip
    body = render_in(_TEMPLATES, "front.html", rows=rows, axes=list(outcome.axes), score=headed(words.score_name))
    return Section("The Pareto front", body)


def _gains(outcome: SweepOutcome, words: Words) -> Section | None:
    gains = gains_of(outcome)
    if not gains:
        return None
    body = render_in(
        _TEMPLATES, "gains.html", gains=gains, alone=axes_without_pairs(outcome, gains), text=value_text, score=words.score_name,
        averaged=[sentence.format(score=headed(words.score_name)) for sentence in AVERAGED],
    )  # fmt: skip
    return Section("What each axis gains", body)


def _unfinished(outcome: SweepOutcome) -> Section | None:
    groups = unfinished(outcome)
    return (
        Section("Failed, skipped and stopped", render_in(_TEMPLATES, "unfinished.html", groups=groups))
        if groups
        else None
    )


def _points(outcome: SweepOutcome, words: Words) -> Section:
    engines: dict[str, list[Engine]] = {}
    for engine in engines_of(outcome):
        engines.setdefault(engine.point.name, []).append(engine)
    probed = any(point.probe_ms for point in outcome.points)
    heads = [
        *outcome.axes,
        "State",
        *(("Probe ms",) if probed else ()),
        f"Best {words.score_name} %",
        "Fastest ms",
        "Took",
    ]
    rows = [
        {"name": point.name, "cells": _point_cells(outcome, point, engines.get(point.name, []), words, probed)}
        for point in outcome.points
    ]
    body = render_in(_TEMPLATES, "points.html", heads=heads, words=len(outcome.axes) + 1, rows=rows, probed=probed)
    return Section("Points", body)


def _point_cells(
    outcome: SweepOutcome, point: PointOutcome, engines: list[Engine], words: Words, probed: bool
) -> list[str]:  # fmt: skip
    counting = [engine for engine in engines if engine.counts]
    quick, best = fastest(counting), max((e.variant[words.score] for e in counting), default=None)
    cells = [value_text(point.values[axis]) if axis in point.values else MISSING for axis in outcome.axes]
    cells.append(happened(point))
    if probed:
        cells.append(quantity(min(point.probe_ms.values())) if point.probe_ms else MISSING)
    return [*cells, number(best), quantity(quick.p50 if quick else None), duration(point.seconds)]


def _how(outcome: SweepOutcome) -> Section:
    sentences = [
        f"Every point is an ordinary run under {outcome.runs}/{outcome.name}/ of {outcome.base} with its values of the axes; "
        "its own report tells how it was measured.",
        "Engines of different points are compared by their score on the evaluation images and by p50 at batch 1. Each is judged "
        "by its own gate, against the FP32 network of its point; one that fails is shown and never chosen.",
        f"Stages that ran, and how often a point took another point's result instead: {stages_text(outcome) or 'none'}.",
    ]
    return section("How this was made", "how.html", sentences=sentences, recipe="")


def _machines(outcome: SweepOutcome) -> Section | None:
    """Each machine once, with the points that were measured there where there are several."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for point, report in done_points(outcome):
        found.setdefault(tuple(machine_rows(report)), []).append(point.name)
    machines = [(counted(len(names), "point") if len(found) > 1 else "", rows) for rows, names in found.items()]
    return section("Machine" if len(found) == 1 else "Machines", "machine.html", machines=machines) if found else None
