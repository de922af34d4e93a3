"""One page, and one table, of what devices measured: every engine on every device, and the best within a budget on each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console.figures import MISSING, number, quantity
from pipeline.devices.kept import Kept
from pipeline.report.compare_page import comparison_page
from pipeline.report.page.render import Section, section
from pipeline.report.tradeoff import draw_comparison
from pipeline.report.values.compared import Compared, data_of, read_compared
from pipeline.report.values.format import drop, headed, latency, rate
from pipeline.tasks.words import Words, words_of

if TYPE_CHECKING:
    from rich.console import Console

PAGE = "devices.html"
_BUDGETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)  # milliseconds


def kept_reports(kept: Kept, key: str) -> list[Compared]:
    """The reports of all devices whose kept results are of the bundle with this key, by name."""
    names = sorted(path.name for path in kept.folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = []
    for name in names:
        if (kept.about(name) or {}).get("bundle") == key:
            (one,) = read_compared([kept.results(name)])
            found.append(Compared(name, one.report))
    return found


def within(report: dict[str, Any], budget: float | None) -> dict[str, Any] | None:
    """The most accurate engine that passes and takes at most `budget` milliseconds at batch 1 (None: any); of equally accurate
    ones the faster."""
    words = words_of(report)
    fitting = [
        variant for variant in report["variants"]
        if variant["status"] == "pass" and variant["latency_ms"] and (budget is None or variant["latency_ms"]["p50"] <= budget)
    ]  # fmt: skip
    return min(fitting, key=lambda v: (-v[words.score], v["latency_ms"]["p50"]), default=None)


def budgets_for(compared: Sequence[Compared], asked: Sequence[float]) -> list[float | None]:
    """Those that were asked for; else the round ones at which the answer of some device changes. And None, no budget."""
    if asked:
        return [*sorted(set(asked)), None]
    chosen: list[float | None] = []
    before: list[str] = ["none"] * len(compared)
    for budget in (*_BUDGETS, None):
        now = [_name(within(c.report, budget)) for c in compared]
        if now != before or budget is None:
            chosen.append(budget)
        before = now
    return chosen


def _name(variant: dict[str, Any] | None) -> str:
    return "none" if variant is None else str(variant["name"])


def write_page(kept: Kept, compared: Sequence[Compared], asked: Sequence[float]) -> Path:
    """Write `devices/devices.html`; returns its path."""
    reports, labels = [c.report for c in compared], [c.label for c in compared]
    data = ", ".join(sorted({data_of(report) for report in reports}))
    picture = draw_comparison(reports, labels, f"{reports[0]['model']} on {data}: {len(reports)} devices")
    page = comparison_page(compared, picture, _budget_section(compared, asked), "device")
    path = kept.folder / PAGE
    with kept.held():
        path.write_text(page, encoding="utf-8")
    return path


def _budget_section(compared: Sequence[Compared], asked: Sequence[float]) -> Section:
    words = words_of(compared[0].report)
    budgets = budgets_for(compared, asked)
    heads = [_head(budget) for budget in budgets]
    rows = [
        {"label": c.label, "cells": [_cell(within(c.report, budget), words) for budget in budgets]} for c in compared
    ]
    return section("Best within a budget", "budget.html", heads=heads, rows=rows, score=words.score_name)


def _head(budget: float | None) -> str:
    return "any latency" if budget is None else f"≤ {budget:g} ms"


def _cell(variant: dict[str, Any] | None, words: Words) -> str:
    if variant is None:
        return MISSING
    return f"{variant['name']}, {number(variant[words.score])} %, {latency(variant)} ms"


def print_joined(compared: Sequence[Compared], asked: Sequence[float], console: "Console | None" = None) -> None:
    """Print every engine of every device, and the best within each budget."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a pipe or a log has no width of its own
    words = words_of(compared[0].report)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for heading in ("device", "engine"):
        table.add_column(heading, overflow="fold")
    for heading in (headed(words.score_name), "Δ pp [95 %]", "p50 ms", "p99 ms", "img/s b1", "energy mJ"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    styles = {"pass": "", "fail": "red", "error": "red", "unavailable": "dim"}
    for c in compared:
        for index, variant in enumerate(c.report["variants"]):
            cells = [c.label if index == 0 else "", variant["name"], number(variant[words.score]), drop(variant, words)]
            cells += [
                latency(variant),
                latency(variant, "p99"),
                rate(variant, "1"),
                quantity(variant["energy_mj"]),
                variant["status"],
            ]
            last = index == len(c.report["variants"]) - 1
            table.add_row(
                *map(Text, cells),
                style="bold green" if variant is c.chosen else styles[variant["status"]],
                end_section=last,
            )
    console.print(table)
    budgets = budgets_for(compared, asked)
    for c in compared:
        best = "; ".join(f"{_head(budget)}: {_name(within(c.report, budget))}" for budget in budgets)
        console.print(Text(f"{c.label}: most accurate within a budget: {best}"), soft_wrap=True)
