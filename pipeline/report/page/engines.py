"""The table of engines, failures kept; sorted by the page's script when a heading is pressed."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pipeline.console.figures import MISSING, megabytes, number, one_line, quantity
from pipeline.report.values.format import batch_sizes, drop, latency, rate


@dataclass(frozen=True)
class EngineRow:
    """A variant of a report; `under` is what stands below its name, `chosen` whether its report recommends it."""

    variant: dict[str, Any]
    under: str
    chosen: bool


@dataclass(frozen=True)
class _Column:
    """A heading, and each row's text and the number it is sorted by (None: not measured)."""

    heading: str
    texts: list[str]
    values: list[float | None]


def engine_rows(report: dict[str, Any]) -> list[EngineRow]:
    """The rows of one report."""
    chosen = (report["recommended"] or {}).get("name")
    return [EngineRow(v, f"{v['backend']} · {v['precision']}", v["name"] == chosen) for v in report["variants"]]


def engines_section(rows: Sequence[EngineRow], reference: str) -> str:
    """HTML of the section: the table and what its signs mean; `reference` names what Δ is against."""
    return f"""<h2>Engines</h2>
{engine_table(rows)}
<p class="note">Δ: top-1 minus that of {escape(reference)}, percentage points, with the 95 % interval. \
◆: on the Pareto front of its run, nothing there is both faster and more accurate. {MISSING}: not measured.</p>
"""


def engine_table(rows: Sequence[EngineRow]) -> str:
    """One `tbody` per engine: its numbers, then its reason over the full width."""
    columns = _columns([row.variant for row in rows])
    heads = "".join(f"<th scope=col>{escape(_unbroken(column.heading))}</th>" for column in columns)
    bodies = []
    for index, row in enumerate(rows):
        variant = row.variant
        cells = "".join(_cell(column, index) for column in columns)
        reason = one_line(variant["reason"])
        extra = f"<tr class=reason><td colspan={len(columns) + 2}>{escape(reason)}</td></tr>" if reason else ""
        chosen = " chosen" if row.chosen else ""
        bodies.append(
            f'<tbody class="{variant["status"]}{chosen}"><tr><th scope=row data-value="{escape(variant["name"])}">'
            f"{escape(variant['name'])}<small>{escape(row.under)}</small></th>"
            f'<td class=status data-value="{_RANK[variant["status"]]}">{_status(variant, row.chosen)}</td>{cells}</tr>'
            f"{extra}</tbody>"
        )
    region = '<div class="scroll engines-scroll" role="region" aria-label="Engines, a table" tabindex="0">'
    return (
        f'{region}<table class="engines sortable">'
        f"<thead><tr><th scope=col>Engine</th><th scope=col>Status</th>{heads}</tr></thead>{''.join(bodies)}</table></div>"
    )


_RANK = {"pass": 0, "fail": 1, "error": 2, "unavailable": 3}


def _columns(variants: list[dict[str, Any]]) -> list[_Column]:
    """The measured columns; memory, energy and layers only where some variant has them."""
    columns = [
        _Column("Top-1 %", [number(v["top1"]) for v in variants], [v["top1"] for v in variants]),
        _Column("Top-5 %", [number(v["top5"]) for v in variants], [v["top5"] for v in variants]),
        _Column("Δ top-1 pp [95 %]", [drop(v) for v in variants], [v["delta_top1_pp"] for v in variants]),
        _Column("Agreement %", [number(v["agreement"]) for v in variants], [v["agreement"] for v in variants]),
    ]
    columns += [
        _Column(f"{p} ms", [latency(v, p) for v in variants], [(v["latency_ms"] or {}).get(p) for v in variants])
        for p in ("p50", "p90", "p99")
    ]
    columns += [
        _Column(
            f"Img/s b{size}", [rate(v, size) for v in variants], [(v["images_per_s"] or {}).get(size) for v in variants]
        )
        for size in batch_sizes({"variants": variants})
    ]
    columns.append(
        _Column("Size MB", [megabytes(v["size_bytes"]) for v in variants], [v["size_bytes"] for v in variants])
    )
    extra = [
        _Column("Memory MB", [megabytes(v["peak_memory_bytes"]) for v in variants], [v["peak_memory_bytes"] for v in variants]),
        _Column("Energy mJ", [quantity(v["energy_mj"]) for v in variants], [v["energy_mj"] for v in variants]),
        _Column(
            "Layers 8/16/32 bit", [_layers(v["layers"]) for v in variants],
            [v["layers"]["int8"] if v["layers"] else None for v in variants],
        ),
    ]  # fmt: skip
    return columns + [column for column in extra if set(column.texts) != {MISSING}]


def _unbroken(heading: str) -> str:
    """With signs that no line breaks at."""
    return heading.replace("Top-", "Top‑").replace(" %]", "\u00a0%]")


def _layers(layers: dict[str, int] | None) -> str:
    return f"{layers['int8']}/{layers['fp16']}/{layers['fp32']}" if layers else MISSING


def _cell(column: _Column, index: int) -> str:
    """A number, with its heading for the narrow layout; marked where nothing was measured."""
    text, value = column.texts[index], column.values[index]
    kind = "none" if text == MISSING else "wide" if len(column.heading) + len(text) > 24 else "short"
    exact = "" if value is None else f' data-value="{value!r}"'
    return f'<td data-label="{escape(column.heading)}" class={kind}{exact}>{escape(text)}</td>'


def _status(variant: dict[str, Any], chosen: bool) -> str:
    marks = {"pass": "✓ pass", "fail": "✗ fail", "error": "✗ error", "unavailable": "unavailable"}
    front = ""
    if variant["pareto"]:
        front = ' <span class="front" title="on the Pareto front" role="img" aria-label="on the Pareto front">◆</span>'
    best = " <span class=best>recommended</span>" if chosen else ""
    return f'<span class="mark">{marks[variant["status"]]}</span>{front}{best}'
