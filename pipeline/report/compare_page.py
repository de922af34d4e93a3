"""The page of reports side by side, of the same parts as a report's."""

from collections.abc import Sequence
from typing import Any

from pipeline.console.figures import MISSING, counted, megabytes, number
from pipeline.report.page.chart import chart_data, chart_levels, chart_section, picture_text
from pipeline.report.page.engines import EngineRow, engines_section
from pipeline.report.page.frame import page
from pipeline.report.page.latency import latency_section
from pipeline.report.page.page import machine_rows
from pipeline.report.page.render import Section, render, section
from pipeline.report.values.compared import Compared, cautions, machine_name
from pipeline.report.values.format import drop, headed, latency
from pipeline.tasks.words import Words, words_of


def comparison_page(
    compared: Sequence[Compared], picture: bytes, more: Section | None = None, noun: str = "run"
) -> str:
    """The HTML page, of the same parts as a report's; `picture` (PNG) is for readers without a script.

    `more` stands behind the first section; `noun` is what the reports are of.
    """
    reports, labels = [c.report for c in compared], [c.label for c in compared]
    words = words_of(reports[0])
    rows = [
        EngineRow(variant, f"{c.label} · {variant['backend']} · {variant['precision']}", variant is c.chosen)
        for c in compared
        for variant in c.report["variants"]
    ]
    timed = [
        variant | {"name": f"{c.label}: {variant['name']}"}
        for c in compared
        for variant in c.report["variants"]
        if variant["latency_ms"]
    ]
    runs = [{"label": c.label, "cells": run_cells(c)} for c in compared]
    machines = [(c.label, machine_rows(c.report)) for c in compared]
    sections = [
        section(
            f"{headed(noun)}s",
            "runs.html",
            cautions=cautions(compared),
            heads=_heads(words, noun),
            words=_WORDS,
            rows=runs,
        ),
        more,
        chart_section(picture, picture_text(timed, words)),
        engines_section(rows, f"each {noun}'s FP32", words),
        latency_section(timed),
        section("Machines", "machine.html", machines=machines),
    ]
    header = render("comparison_header.html", count=counted(len(compared), noun))
    data = chart_data(reports, labels, _levels(reports), noun)
    return page(f"Comparison of {', '.join(labels)}", header, sections, data, words)


def _levels(reports: Sequence[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """The lines of the reference and the gate, where all reports have the same."""
    found = [chart_levels(report, report["reference"]) for report in reports if report.get("reference")]
    return found[0] if len(found) == len(reports) and all(levels == found[0] for levels in found) else []


_WORDS = ("Model", "Data", "Machine", "Recommended")


def _heads(words: Words, noun: str) -> tuple[str, ...]:
    score = f"{headed(words.score_name)} %"
    return (headed(noun), "Model", "Data", "Machine", "FP32 %", "Recommended", score, "Δ pp [95 %]", "p50 ms", "MB")


def run_cells(c: Compared) -> list[str]:
    """What a run comes to: model, data, machine, FP32's score, and the recommended engine with its figures."""
    report, chosen, words = c.report, c.chosen, words_of(c.report)
    dataset, reference = report["dataset"], report.get("reference")
    cells = [report["model"], f"{dataset['name']}, {dataset['eval_images']:,}", machine_name(report)]
    cells.append(number(reference[words.score] if reference else None))
    if chosen is None:
        return [*cells, "none", MISSING, MISSING, MISSING, MISSING]
    return [
        *cells,
        chosen["name"],
        number(chosen[words.score]),
        drop(chosen, words),
        latency(chosen),
        megabytes(chosen["size_bytes"]),
    ]
