"""How a sweep's values and its conclusion read: the same in the terminal, on the page and in sweep.json."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.console.figures import counted, number, one_line, quantity
from pipeline.report.values.format import chance_warning, latency
from pipeline.sweep.outcome.engines import Engine, best_under, done_points, engines_of, fastest, one_set, sweep_words
from pipeline.sweep.outcome.outcome import PointOutcome, SweepOutcome

_SHORT = 44  # signs of a name in a chart


def value_text(value: Any) -> str:
    """A value of an axis as a recipe has it: `t2t_vit_7`, `64`, `true`, `[32, 64]`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def about(engine: Engine, axes: Mapping[str, Sequence[Any]]) -> str:
    """What an engine is: the values of its point, its precision and its backend, named."""
    named = [f"{axis} {value_text(engine.point.values.get(axis))}" for axis in axes]
    return ", ".join([*named, f"precision {engine.variant['precision']}", f"backend {engine.variant['backend']}"])


def short_name(engine: Engine) -> str:
    """`t2t_vit_7-64: openvino-int8`; of a point's name that is too long for a chart, beginning and end."""
    point, name = engine.key
    room = max(_SHORT - len(name), 12)
    if len(point) > room:
        half = (room - 1) // 2
        point = f"{point[: room - 1 - half]}…{point[-half:]}"
    return f"{point}: {name}"


def predict_command(outcome: SweepOutcome, point: str, engine: str) -> str:
    """What classifies an image with an engine of a point."""
    runs = f"{outcome.runs.rstrip('/')}/{outcome.name}"
    return shlex.join(["t2t-edge", "predict", "--run", point, "--runs", runs, "--engine", engine, "IMAGE"])


def limits_text(outcome: SweepOutcome) -> str:
    """` within 5 ms and with at least 88 %`, "" without limits."""
    words = sweep_words(outcome)
    parts = []
    if outcome.budget_ms is not None:
        parts.append(f"within {outcome.budget_ms:g} ms")
    if outcome.min_score is not None:
        parts.append(f"with at least {outcome.min_score:g} % {words.score_name}")
    return "".join(f" {part}" for part in parts)


def conclusion(outcome: SweepOutcome) -> tuple[str, str | None, bool]:
    """What the sweep comes to, the next command where there is one, and whether there is an engine to take."""
    words, best = sweep_words(outcome), best_under(outcome, outcome.budget_ms, outcome.min_score)
    if best:
        point, variant = best
        found = f"{number(variant[words.score])} % {words.score_name}, {latency(variant)} ms at batch 1"
        text = f"Most accurate{limits_text(outcome)}: {variant['name']} of {point.name}, {found}"
        warning = chance_warning(dict(point.report or {}))
        return (
            f"{text}. {warning}" if warning else text,
            predict_command(outcome, point.name, variant["name"]),
            not warning,
        )
    return _nothing(outcome), None, False


def _nothing(outcome: SweepOutcome) -> str:
    """Why no engine is named."""
    if not done_points(outcome):
        return f"Nothing to choose from: none of {counted(len(outcome.points), 'point')} was finished"
    if not one_set(outcome):
        return "Nothing is chosen, because the points were evaluated on different images: make a sweep of each set"
    words, counting = sweep_words(outcome), [engine for engine in engines_of(outcome) if engine.counts]
    quick = fastest(counting)
    if quick is None:
        return "Nothing to choose from: no engine that passes its gate was measured for speed"
    good = max(counting, key=lambda engine: engine.variant[words.score])
    return (
        f"No engine that passes its gate is{limits_text(outcome)}. The fastest is {quick.variant['name']} of "
        f"{quick.point.name}, {quantity(quick.p50)} ms; the most accurate {good.variant['name']} of {good.point.name}, "
        f"{number(good.variant[words.score])} %"
    )


def unfinished(outcome: SweepOutcome) -> list[tuple[list[str], str, str]]:
    """(names, what happened, reason) of the points that are not done; those that share both are named together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for point in outcome.points:
        if point.status != "done":
            groups.setdefault((happened(point), one_line(point.reason or "")), []).append(point.name)
    order = ("failed", "skipped", "stopped")
    found = [(names, what, reason) for (what, reason), names in groups.items()]
    return sorted(found, key=lambda group: order.index(group[1].split()[0]))


def happened(point: PointOutcome) -> str:
    """`done`, `failed in train`, `skipped before train`."""
    if point.stage is None:
        return point.status
    return f"{point.status} {'in' if point.status == 'failed' else 'before'} {point.stage}"


def counts_text(outcome: SweepOutcome) -> str:
    """`12 of 20 points done, 5 failed, 3 skipped`."""
    parts = [f"{_count(outcome, 'done')} of {counted(len(outcome.points), 'point')} done"]
    parts += [f"{_count(outcome, s)} {s}" for s in ("failed", "skipped", "stopped") if _count(outcome, s)]
    return ", ".join(parts)


def _count(outcome: SweepOutcome, status: str) -> int:
    return sum(point.status == status for point in outcome.points)


def stages_text(outcome: SweepOutcome) -> str:
    """`train 2 (10 shared), export 12`: how often each stage ran, and how often a point took another's result."""
    parts = (
        f"{name} {made}" + (f" ({shared} shared)" if shared else "") for name, (made, shared) in outcome.stages.items()
    )
    return ", ".join(parts)
