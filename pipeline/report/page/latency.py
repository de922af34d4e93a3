"""The report's section on how latency spreads: a strip for each engine and batch size, on one scale."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.console.figures import quantity
from pipeline.report.page.chart import OTHER, SLOTS
from pipeline.report.page.render import Section, section

_TAILS = (("p50", "median"), ("p90", "90 %"), ("p99", "99 %"))


def latency_section(variants: Sequence[dict[str, Any]]) -> Section | None:
    """A strip for each engine and batch size; None where nothing was timed."""
    one = [(v, v["latency_ms"], (v.get("percentiles_ms") or {}).get("1")) for v in variants if v["latency_ms"]]
    if not one:
        return None
    blocks = [_block("Batch 1", [(v, [tails[p] for p, _ in _TAILS], all_) for v, tails, all_ in one])]
    for size in sorted({s for v in variants for s in v.get("percentiles_ms") or {} if s != "1"}, key=int):
        kept = [(v, v["percentiles_ms"][size]) for v in variants if size in (v.get("percentiles_ms") or {})]
        blocks.append(_block(f"Batch {size}", [(v, [all_[50], all_[90], all_[99]], all_) for v, all_ in kept]))
    full = any(v.get("percentiles_ms") for v in variants)
    return section("How latency spreads", "latency.html", blocks=blocks, full=full)


def _block(title: str, rows: Sequence[tuple[dict[str, Any], list[float], list[float] | None]]) -> dict[str, Any]:
    """One batch size: a scale, and a strip for each of (variant, [p50, p90, p99], percentiles 0 to 100 where kept)."""
    numbers = [value for _, tails, kept in rows for value in (kept or tails)]
    low, high = min(numbers) * 0.95, max(numbers) * 1.05
    strips = [_strip(variant, tails, kept, low, high) for variant, tails, kept in rows]
    return {"title": title, "scale": _scale(low, high), "strips": strips}


def _place(value: float, low: float, high: float) -> float:
    """Percent of the width, on a logarithmic scale."""
    return 100 * (math.log(value / low) / math.log(high / low))


def _strip(
    variant: dict[str, Any], tails: list[float], kept: list[float] | None, low: float, high: float
) -> dict[str, Any]:
    ends = [("all", tails[0], tails[2])]
    if kept:
        ends = [("all", kept[0], kept[100]), ("most", kept[5], kept[95]), ("half", kept[25], kept[75])]
    spans = []
    for kind, start, end in ends:
        left = _place(start, low, high)
        spans.append({"kind": kind, "left": left, "width": _place(end, low, high) - left})
    named = list(zip(_TAILS, tails, strict=True))
    return {
        "name": variant["name"], "status": variant["status"], "slot": SLOTS.get(variant["backend"], OTHER),
        "spans": spans, "ticks": [{"name": name, "place": _place(value, low, high)} for (name, _), value in named],
        "words": ", ".join(f"{word} {quantity(value)}" for (_, word), value in named),
        "figures": " · ".join(f"{name} {quantity(value)}" for (name, _), value in named),
    }  # fmt: skip


def _scale(low: float, high: float) -> list[dict[str, float]]:
    """Round numbers along the top: 1, 2, 5 and so on, as many as there are in the range."""
    steps = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 3, 5, 7)
    ]
    inside = [step for step in steps if low <= step <= high]
    if len(inside) > 6:
        inside = [step for step in inside if f"{step:e}"[0] in "125"]
    return [{"value": step, "place": _place(step, low, high)} for step in inside]
