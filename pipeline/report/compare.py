"""`t2t-edge report --compare`, `--save` and `--table`: reports side by side, kept, and in a Markdown file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib.errors import InputError
from pipeline.console.figures import megabytes, number
from pipeline.report.compare_page import comparison_page
from pipeline.report.tradeoff import draw_comparison
from pipeline.report.values.compared import Compared, cautions, data_of, machine_name, read_compared
from pipeline.report.values.format import batch_sizes, drop, latency, rate
from pipeline.report.values.results import results_table, save_results, write_table
from pipeline.tasks.words import words_of

if TYPE_CHECKING:
    from rich.console import Console


def compare_reports(options: argparse.Namespace) -> None:
    """Read the reports of `options.compare`, print them side by side, and write what else is asked for.

    `options.document` gets `recommended` by run, `written`, `saved`, `table` and `next`.
    """
    if options.dry_run:
        raise InputError(
            "--compare runs no stage, so there is nothing to plan", got="--dry-run", next_step="leave it out"
        )
    compared = read_compared(options.compare)
    if not compared:
        raise InputError("there is nothing to compare", got="results files without runs", allowed="at least one report")
    print_comparison(compared)
    write_comparison(compared, options.out)
    page = options.out / "compare.html"
    print(f"\nwritten: {page}, compare.png")
    options.document |= {
        "recommended": {c.label: (c.report["recommended"] or {}).get("name") for c in compared},
        "written": [str(page), str(options.out / "compare.png")], "next": f"open {page}",
    }  # fmt: skip
    keep_reports(compared, options)
    print(f"next:    open {page} in a browser")


def keep_reports(compared: Sequence[Compared], options: argparse.Namespace) -> None:
    """Save into results files, one for each machine, and make the table, where that is asked for."""
    if options.save:
        for machine in dict.fromkeys(machine_name(c.report) for c in compared):
            reports = [c.report for c in compared if machine_name(c.report) == machine]
            if options.save.suffix == ".json" and len(reports) < len(compared):
                raise InputError(
                    "a results file holds one machine", got=f"{options.save} for several", allowed="a folder",
                    next_step=f"t2t-edge report --compare … --save {options.save.parent}",
                )  # fmt: skip
            path = save_results(reports, options.save, machine)
            options.document.setdefault("saved", []).append(str(path))
            print(f"saved:   {path}")
    if options.table:
        write_table(options.table, results_table([(machine_name(c.report), c.report) for c in compared]))
        options.document["table"] = str(options.table)
        print(f"table:   {options.table}")


def write_comparison(compared: Sequence[Compared], folder: Path) -> None:
    """Write compare.html and compare.png into `folder`."""
    reports, labels = [c.report for c in compared], [c.label for c in compared]
    where = ", ".join(sorted({data_of(report) for report in reports}))
    picture = draw_comparison(reports, labels, f"{len(reports)} runs on {where}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.png").write_bytes(picture)
    (folder / "compare.html").write_text(comparison_page(compared, picture), encoding="utf-8")


def print_comparison(compared: Sequence[Compared], console: "Console | None" = None) -> None:
    """Print every engine of every report, the recommended ones in green, failures in red, and what to be careful of."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a pipe or a log has no width of its own
    sizes = batch_sizes({"variants": [variant for c in compared for variant in c.report["variants"]]})
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for heading in ("run", "engine"):
        table.add_column(heading, overflow="fold")
    words = words_of(compared[0].report)
    for heading in (words.score_name, "Δ pp [95 %]", "p50 ms", *(f"img/s\nb{size}" for size in sizes), "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    styles = {"pass": "", "fail": "red", "error": "red", "unavailable": "dim"}
    for c in compared:
        for index, variant in enumerate(c.report["variants"]):
            cells = [
                c.label if index == 0 else "",
                variant["name"],
                number(variant[words.score]),
                drop(variant, words),
                latency(variant),
            ]
            cells += [*(rate(variant, size) for size in sizes), megabytes(variant["size_bytes"]), variant["status"]]
            last = index == len(c.report["variants"]) - 1
            style = "bold green" if variant is c.chosen else styles[variant["status"]]
            table.add_row(*map(Text, cells), style=style, end_section=last)
    console.print(table)
    for text in cautions(compared):
        console.print(Text(text, style="yellow"))
