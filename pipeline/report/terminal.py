"""The report in the terminal: the engines, why some did not pass, what is recommended and the next command."""

from typing import TYPE_CHECKING, Any

from pipeline.console.figures import megabytes, number
from pipeline.report.values.format import (
    PARETO_NOTE,
    batch_sizes,
    chance_warning,
    data_warnings,
    drop,
    latency,
    rate,
    reasons,
    recommendation,
)
from pipeline.tasks.words import words_of

if TYPE_CHECKING:
    from rich.console import Console


def print_table(report: dict[str, Any], console: "Console | None" = None) -> None:
    """Print the engines, the reasons of those that did not pass, what is recommended and the next command.

    Needs 100 columns to show the intervals; a narrower terminal gets the table without them.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text as Styled

    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 100)  # a pipe or a log has no width of its own
    console.print(_terminal_table(report, intervals=console.width >= 100))
    console.print()
    for names, status, reason in reasons(report):
        console.print(Styled.assemble((names, "bold"), f" ({status})", style=_STYLES[status]))
        console.print(Padding(Styled(reason), (0, 0, 0, 2)))
    for text in data_warnings(report):
        console.print(Styled.assemble(("Warning: ", "bold yellow"), text))
    conclusion, command = recommendation(report)
    console.print()
    sure = report["recommended"] and not chance_warning(report)
    console.print(Styled(conclusion, style="bold green" if sure else "bold red"))
    console.print(Styled.assemble("Next: ", (command, "bold")), soft_wrap=True)


_STYLES = {"pass": "", "fail": "red", "error": "red", "unavailable": "dim"}


def _terminal_table(report: dict[str, Any], intervals: bool) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text as Styled

    sizes, words = batch_sizes(report), words_of(report)
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("backend", overflow="fold")
    table.add_column("precision", overflow="fold")
    for heading in (words.score_name, "Δ pp [95 %]" if intervals else "Δ pp", "agree", "p50 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for size in sizes:
        table.add_column(f"img/s\nb{size}", justify="right", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for variant in report["variants"]:
        chosen = variant["name"] == (report["recommended"] or {}).get("name")
        change = drop(variant if intervals else {**variant, "ci95_pp": None}, words)
        cells = [variant["backend"], _precision_and_target(variant), number(variant[words.score]), change]
        cells += [number(variant["agreement"], 1), latency(variant), *(rate(variant, size) for size in sizes)]
        cells += [megabytes(variant["size_bytes"]), variant["status"] + (" *" if variant["pareto"] else "")]
        table.add_row(*map(Styled, cells), style="bold green" if chosen else _STYLES[variant["status"]])
    if any(variant["pareto"] for variant in report["variants"]):
        table.caption = PARETO_NOTE
        table.caption_justify = "left"
    return table


def _precision_and_target(variant: dict[str, Any]) -> str:
    """`int8 sm86`: the precision, and what a name says beyond `<backend>-<precision>`."""
    rest = variant["name"].removeprefix(f"{variant['backend']}-{variant['precision']}")
    return f"{variant['precision']} {rest.strip('-')}".strip()
