"""The report as one HTML file: nothing is loaded from elsewhere; for screens, phones and paper."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.console.figures import MISSING, number, one_line, percent
from pipeline.report.page.accuracy import accuracy_section
from pipeline.report.page.chart import chart_data, chart_levels, chart_section, picture_text
from pipeline.report.page.engines import engine_rows, engines_section
from pipeline.report.page.frame import page
from pipeline.report.page.gpu import gpu_section
from pipeline.report.page.latency import latency_section
from pipeline.report.values.format import class_count, how_measured, recommendation


def html_page(
    report: dict[str, Any], reference: dict[str, Any], mode: dict[str, Any], picture: bytes,
    sections: Sequence[str] = (), thumbnails: Mapping[str, bytes] | None = None, recipe: str = "",
) -> str:  # fmt: skip
    """The whole page; every text of the report is escaped, `picture` (PNG) is embedded, `sections` are HTML already.

    `thumbnails` are PNGs of the images that flipped, by name; `recipe` is the text that makes the run again.
    """
    parts = [
        chart_section(picture, picture_text(report["variants"])),
        engines_section(engine_rows(report), reference["name"]),
        accuracy_section(report, thumbnails or {}),
        latency_section(report["variants"]),
        gpu_section(report["variants"]),
        *sections,
        _how(report, reference, mode, recipe),
        f"<h2>Machine</h2>\n{machine_list(report)}\n",
        f"<h2>Files</h2>\n{_files(report)}\n",
    ]
    title = f"{report['run']}: {report['model']} on {report['dataset']['name']}"
    data = chart_data([report], [report["run"]], chart_levels(report, reference))
    return page(title, _header(report, reference), parts, data)


def _header(report: dict[str, Any], reference: dict[str, Any]) -> str:
    conclusion, command = recommendation(report)
    status = "good" if report["recommended"] else "bad"
    return f"""<header>
<p class="over">{escape(report["run"])}</p>
<h1>{escape(report["model"])} <span>on {escape(report["dataset"]["name"])}</span></h1>
</header>
<div class="verdict {status}">
<p>{escape(conclusion)}</p>
<p class="next">Next: <code>{escape(one_line(command))}</code></p>
</div>
{_facts(report, reference)}"""


def _facts(report: dict[str, Any], reference: dict[str, Any]) -> str:
    """The few numbers to read first."""
    counts = dict.fromkeys(("pass", "fail", "error", "unavailable"), 0)
    for variant in report["variants"]:
        counts[variant["status"]] += 1
    gate = report["gate"]["min_relative_top1"]
    facts = [
        (reference["name"], f"{number(reference['top1'])} %", f"top-1; top-5 {number(reference['top5'])} %"),
        ("Gate", f"{number(reference['top1'] * gate)} %", f"{percent(gate)} of that top-1"),
        ("Engines", f"{counts['pass']} of {len(report['variants'])} pass", _others(counts)),
        ("Images", f"{report['dataset']['eval_images']:,}", f"{class_count(report)} classes"),
    ]
    items = (
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b> <small>{escape(more)}</small></dd></div>"
        for name, value, more in facts
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def _others(counts: dict[str, int]) -> str:
    """`1 fails, 6 unavailable`."""
    words = {"fail": "failed", "error": "with errors", "unavailable": "unavailable"}
    return ", ".join(f"{counts[status]} {word}" for status, word in words.items() if counts[status]) or "none failed"


def _how(report: dict[str, Any], reference: dict[str, Any], mode: dict[str, Any], recipe: str) -> str:
    """How it was measured, and the recipe that makes it again."""
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in how_measured(report, reference, mode))
    text = f'<details class="card"><summary>The recipe of this run</summary><pre>{escape(recipe)}</pre></details>'
    return f"<h2>How this was measured, and how to reproduce it</h2>\n<ul>{sentences}</ul>\n{text if recipe else ''}\n"


def machine_list(report: dict[str, Any]) -> str:
    """The machine and its versions."""
    machine = report["machine"]
    rows = [("CPU", machine["cpu"]), ("GPU", machine["gpu"] or "none"), *sorted(machine["versions"].items())]
    return "<dl class=machine>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows) + "</dl>"


def _files(report: dict[str, Any]) -> str:
    """Where each engine is, under the run's folder, and its hash."""
    items = (
        f"<li><b>{escape(v['name'])}</b> <code>{escape(v['artifact'])}</code>"
        f"<br><small>sha256 {escape(v['sha256'] or MISSING)}</small></li>"
        for v in report["variants"]
        if v["artifact"]
    )
    return (
        f"<ul class=files>{''.join(items)}</ul>" if any(v["artifact"] for v in report["variants"]) else "<p>None.</p>"
    )
