"""The report: what evaluation and benchmark measured, as report.json, report.md, report.html and tradeoff.png."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.report.page.page import html_page
from pipeline.report.page.render import Section
from pipeline.report.tradeoff import draw_tradeoff
from pipeline.report.values.markdown import markdown_page
from pipeline.report.values.rows import join_report
from pipeline.report.values.schema import check_report


def build_report(
    *,
    run: str,
    model: str,
    evaluation: dict[str, Any],
    benchmark: dict[str, Any],
    preprocess_sha256: str,
    gate_share: float,
) -> dict[str, Any]:
    """Join the evaluation stage's and the benchmark stage's JSON into what report.json holds; what is missing is null.

    `gate_share` is the share of FP32's score, 0–1, that an engine must keep; the task is the evaluation's. ValueError when
    the two do not belong together or hold what a report may not (see `check_report`).
    """
    report = join_report(
        run=run, model=model, evaluation=evaluation, benchmark=benchmark, preprocess_sha256=preprocess_sha256,
        gate_share=gate_share,
    )  # fmt: skip
    check_report(report)
    return report


def write_report(
    report: dict[str, Any], folder: Path, reference: dict[str, Any], mode: dict[str, Any],
    sections: Sequence[Section | None] = (), changed: Any = None, recipe: str = "",
) -> None:  # fmt: skip
    """Write report.json, report.md, report.html and tradeoff.png into `folder`.

    `reference` is the evaluation's (its name and its two scores), `mode` the benchmark's ({"threads", "warmup", "rounds",
    "calls"}); `sections`, `changed` and `recipe` are for report.html (see `html_page`). The files are written
    one by one: give a temporary folder to have all or none.
    """
    check_report(report)
    picture = draw_tradeoff(report, reference)
    texts = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown_page(report, reference, mode),
        "report.html": html_page(report, reference, mode, picture, sections, changed, recipe),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tradeoff.png").write_bytes(picture)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
