"""The report as one HTML file: nothing is loaded from elsewhere; for screens, phones and paper."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.console.figures import number, percent
from pipeline.report.page.accuracy import accuracy_section
from pipeline.report.page.chart import chart_data, chart_levels, chart_section, picture_text
from pipeline.report.page.engines import engine_rows, engines_section
from pipeline.report.page.frame import page
from pipeline.report.page.gpu import gpu_section
from pipeline.report.page.latency import latency_section
from pipeline.report.page.render import Section, render, section
from pipeline.report.values.format import chance_warning, class_count, data_warnings, how_measured, recommendation


def html_page(
    report: dict[str, Any], reference: dict[str, Any], mode: dict[str, Any], picture: bytes,
    sections: Sequence[Section | None] = (), thumbnails: Mapping[str, bytes] | None = None, recipe: str = "",
) -> str:  # fmt: skip
    """The whole page; `picture` (PNG) is embedded, `sections` come before how it was measured, None is left out.

    `thumbnails` are PNGs of the images that flipped, by name; `recipe` is the text that makes the run again.
    """
    conclusion, command = recommendation(report)
    header = render(
        "header.html",
        report=report,
        conclusion=conclusion,
        command=command,
        facts=_facts(report, reference),
        warnings=data_warnings(report),
        good=bool(report["recommended"]) and not chance_warning(report),
    )
    parts = [
        chart_section(picture, picture_text(report["variants"])),
        engines_section(engine_rows(report), reference["name"]),
        accuracy_section(report, thumbnails or {}),
        latency_section(report["variants"]),
        gpu_section(report["variants"]),
        *sections,
        section(
            "How this was measured, and how to reproduce it", "how.html", sentences=how_measured(report, reference, mode),
            recipe=recipe,
        ),
        section("Machine", "machine.html", machines=[("", machine_rows(report))]),
        section("Files", "files.html", files=[variant for variant in report["variants"] if variant["artifact"]]),
    ]  # fmt: skip
    title = f"{report['run']}: {report['model']} on {report['dataset']['name']}"
    return page(title, header, parts, chart_data([report], [report["run"]], chart_levels(report, reference)))


def _facts(report: dict[str, Any], reference: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers to read first."""
    counts = dict.fromkeys(("pass", "fail", "error", "unavailable"), 0)
    for variant in report["variants"]:
        counts[variant["status"]] += 1
    gate = report["gate"]["min_relative_top1"]
    return [
        (reference["name"], f"{number(reference['top1'])} %", f"top-1; top-5 {number(reference['top5'])} %"),
        ("Gate", f"{number(reference['top1'] * gate)} %", f"{percent(gate)} of that top-1"),
        ("Engines", f"{counts['pass']} of {len(report['variants'])} pass", _others(counts)),
        ("Images", f"{report['dataset']['eval_images']:,}", f"{class_count(report)} classes"),
    ]


def _others(counts: dict[str, int]) -> str:
    """`1 fails, 6 unavailable`."""
    words = {"fail": "failed", "error": "with errors", "unavailable": "unavailable"}
    return ", ".join(f"{counts[status]} {word}" for status, word in words.items() if counts[status]) or "none failed"


def machine_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The machine and its versions."""
    machine = report["machine"]
    return [("CPU", machine["cpu"]), ("GPU", machine["gpu"] or "none"), *sorted(machine["versions"].items())]
