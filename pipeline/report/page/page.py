"""The report as one HTML file: nothing is loaded from elsewhere; for screens, phones and paper."""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.console.figures import number, percent
from pipeline.report.page.accuracy import accuracy_section
from pipeline.report.page.chart import chart_data, chart_levels, chart_section, picture_text
from pipeline.report.page.engines import engine_rows, engines_section
from pipeline.report.page.frame import page
from pipeline.report.page.gpu import gpu_section
from pipeline.report.page.latency import latency_section
from pipeline.report.page.pixels import pixels_section
from pipeline.report.page.render import Section, render, section
from pipeline.report.values.format import chance_warning, class_count, data_warnings, how_measured, recommendation
from pipeline.tasks.words import CLASSIFICATION, SEGMENTATION, words_of

# What the engines change, task by task: of a report and its pictures, or None for these, a section.
CHANGES: dict[str, Callable[[dict[str, Any], Any], Section | None]] = {
    CLASSIFICATION.task: accuracy_section,
    SEGMENTATION.task: pixels_section,
}


def html_page(
    report: dict[str, Any], reference: dict[str, Any], mode: dict[str, Any], picture: bytes,
    sections: Sequence[Section | None] = (), changed: Any = None, recipe: str = "",
) -> str:  # fmt: skip
    """The whole page; `picture` (PNG) is embedded, `sections` come before how it was measured, None is left out.

    `changed` are the pictures of what the engines change, as the task's section has them (`CHANGES`); `recipe` is the text
    that makes the run again.
    """
    conclusion, command = recommendation(report)
    words = words_of(report)
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
        chart_section(picture, picture_text(report["variants"], words)),
        engines_section(engine_rows(report), reference["name"], words),
        CHANGES[words.task](report, changed),
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
    data = chart_data([report], [report["run"]], chart_levels(report, reference))
    return page(title, header, parts, data, words)


def _facts(report: dict[str, Any], reference: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers to read first."""
    counts = dict.fromkeys(("pass", "fail", "error", "unavailable"), 0)
    for variant in report["variants"]:
        counts[variant["status"]] += 1
    words = words_of(report)
    score, gate = reference[words.score], report["gate"][words.gate]
    second = f"{words.second_name} {number(reference[words.second])} %"
    return [
        (reference["name"], f"{number(score)} %", f"{words.score_name}; {second}"),
        ("Gate", f"{number(score * gate)} %", f"{percent(gate)} of that {words.score_name}"),
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
