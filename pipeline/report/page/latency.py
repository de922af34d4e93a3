"""The report's section on how latency spreads: a strip for each engine and batch size, on one scale."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from pipeline.console.figures import quantity
from pipeline.report.page.chart import SLOTS

_TAILS = (("p50", "median"), ("p90", "90 %"), ("p99", "99 %"))


def latency_section(variants: Sequence[dict[str, Any]]) -> str:
    """HTML of the section; "" where nothing was timed."""
    one = [(v, v["latency_ms"], (v.get("percentiles_ms") or {}).get("1")) for v in variants if v["latency_ms"]]
    if not one:
        return ""
    blocks = [_block("Batch 1", [(v, [tails[p] for p, _ in _TAILS], all_) for v, tails, all_ in one])]
    for size in sorted({s for v in variants for s in v.get("percentiles_ms") or {} if s != "1"}, key=int):
        kept = [(v, v["percentiles_ms"][size]) for v in variants if size in (v.get("percentiles_ms") or {})]
        blocks.append(_block(f"Batch {size}", [(v, [all_[50], all_[90], all_[99]], all_) for v, all_ in kept]))
    full = any(v.get("percentiles_ms") for v in variants)
    shape = (
        "the band is from the 5th to the 95th percentile, its dark part the middle half, the thin line all calls; "
        if full
        else ""
    )
    return f"""<h2>How latency spreads</h2>
{"".join(blocks)}
<p class="note">Milliseconds a call, every timed call of the benchmark: {shape}ticks are p50, p90 and p99. The scale is \
logarithmic.</p>
"""


def _block(title: str, rows: Sequence[tuple[dict[str, Any], list[float], list[float] | None]]) -> str:
    """One batch size: a scale, and a strip for each of (variant, [p50, p90, p99], percentiles 0 to 100 where kept)."""
    numbers = [value for _, tails, kept in rows for value in (kept or tails)]
    low, high = min(numbers) * 0.95, max(numbers) * 1.05
    strips = "".join(_strip(variant, tails, kept, low, high) for variant, tails, kept in rows)
    return f'<h3>{title}</h3>\n<div class="strips card" role="list">{_scale(low, high)}{strips}</div>\n'


def _place(value: float, low: float, high: float) -> float:
    """Percent of the width, on a logarithmic scale."""
    return 100 * (math.log(value / low) / math.log(high / low))


def _span(kind: str, start: float, end: float, low: float, high: float) -> str:
    left, right = _place(start, low, high), _place(end, low, high)
    return f'<i class="{kind}" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'


def _strip(variant: dict[str, Any], tails: list[float], kept: list[float] | None, low: float, high: float) -> str:
    marks = "".join(
        f'<i class="tick {name}" style="left:{_place(value, low, high):.2f}%"></i>'
        for (name, _), value in zip(_TAILS, tails, strict=True)
    )
    if kept:
        spans = _span("all", kept[0], kept[100], low, high) + _span("most", kept[5], kept[95], low, high)
        spans += _span("half", kept[25], kept[75], low, high)
    else:
        spans = _span("all", tails[0], tails[2], low, high)
    words = ", ".join(f"{word} {quantity(value)}" for (_, word), value in zip(_TAILS, tails, strict=True))
    shown = " · ".join(f"{name} {quantity(value)}" for (name, _), value in zip(_TAILS, tails, strict=True))
    return (
        f'<div class="strip c{SLOTS.get(variant["backend"], len(SLOTS))} {variant["status"]}" role="listitem" '
        f'aria-label="{escape(variant["name"])}: {words} ms"><span class="name">{escape(variant["name"])}</span>'
        f'<span class="track" aria-hidden="true">{spans}{marks}</span><span class="figures">{shown}</span></div>'
    )


def _scale(low: float, high: float) -> str:
    """Round numbers along the top: 1, 2, 5 and so on, as many as there are in the range."""
    steps = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 3, 5, 7)
    ]
    inside = [step for step in steps if low <= step <= high]
    if len(inside) > 6:
        inside = [step for step in inside if f"{step:e}"[0] in "125"]
    marks = "".join(f'<i style="left:{_place(step, low, high):.2f}%">{step:g}</i>' for step in inside)
    return f'<div class="strip scale" aria-hidden="true"><span class="name">ms</span><span class="track">{marks}</span></div>'
