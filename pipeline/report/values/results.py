"""Results that are kept in the repository: a JSON file for each machine, and the README's table made from them."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib.errors import InputError
from pipeline.console.figures import MISSING, megabytes, number, quantity
from pipeline.report.values.format import drop, headed, latency
from pipeline.report.values.markdown import markdown_text
from pipeline.report.values.schema import check_report
from pipeline.tasks.words import CLASSIFICATION, task_key, words_of

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
_LONG = ("comparison", "percentiles_ms")  # what a page shows of single images and calls, not kept


def read_results(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The reports of a results file, checked; ValueError where it is none."""
    if content.get("schema") != 1 or not isinstance(content["runs"], list):
        raise ValueError(f"schema {content.get('schema')!r} and runs of type {type(content['runs']).__name__}")
    for report in content["runs"]:
        check_report(report)
    return list(content["runs"])


def save_results(reports: Sequence[dict[str, Any]], target: Path, machine: str) -> Path:
    """Add reports of one task to a results file, in place of those with the same run and model; returns the file.

    `target` is the file, or a folder, where it is named after the `machine` and, where that is not classification, the task.
    """
    words = words_of(reports[0])
    slug = re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")
    path = target if target.suffix == ".json" else target / f"{'-'.join([slug, *task_key(words).values()])}.json"
    kept: list[dict[str, Any]] = []
    if path.is_file():
        try:
            kept = read_results(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path} is no results file", got=str(error), allowed="what t2t-edge report --save writes",
                next_step=f"move it away: mv '{path}' '{path}.old'",
            ) from error  # fmt: skip
    if other := {words_of(report).task for report in kept} - {words.task}:
        raise InputError(
            "a results file holds one task", got=f"{path} of {', '.join(other)}, for runs of {words.task}",
            allowed="another file, or a folder", next_step=f"t2t-edge report --compare … --save {path.parent}",
        )  # fmt: skip
    rows = {(report["run"], report["model"]): report for report in (*kept, *map(short_report, reports))}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": 1, "runs": [rows[key] for key in sorted(rows)]}, indent=1, ensure_ascii=False)
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def short_report(report: dict[str, Any]) -> dict[str, Any]:
    """Without what is long and told by the report's own page."""
    variants = [{key: value for key, value in v.items() if key not in _LONG} for v in report["variants"]]
    return report | {"variants": variants}


def results_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Markdown: of each report the engines on the Pareto front, and the one with the most images/s that passes.

    The recommended one is in bold; `rows` are (machine, report), of one task.
    """
    score = headed(words_of(rows[0][1]).score_name) if rows else headed(CLASSIFICATION.score_name)
    lines = [
        f"| Model, data | Machine | Engine | {score} % | Δ pp [95 %] | p50 ms | × FP32 | img/s | MB |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for machine, report in rows:
        chosen = (report["recommended"] or {}).get("name")
        fastest = max(report["variants"], key=_top_rate)
        for variant in report["variants"]:
            if variant["pareto"] or (variant is fastest and _top_rate(variant) > 0):
                lines.append(_line(machine, report, variant, variant["name"] == chosen))
    return "\n".join(lines) + "\n"


def _line(machine: str, report: dict[str, Any], variant: dict[str, Any], chosen: bool) -> str:
    name, words = markdown_text(variant["name"]), words_of(report)
    cells = [
        markdown_text(f"{report['model']}, {report['dataset']['name']}"), markdown_text(machine),
        f"**{name}**" if chosen else name, number(variant[words.score]), drop(variant, words), latency(variant),
        _speedup(report, variant), _best_rate(variant), megabytes(variant["size_bytes"]),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _speedup(report: dict[str, Any], variant: dict[str, Any]) -> str:
    """Over the fastest FP32 engine of the same report, at batch 1."""
    full = [v["latency_ms"]["p50"] for v in report["variants"] if v["precision"] == "fp32" and v["latency_ms"]]
    return f"{min(full) / variant['latency_ms']['p50']:.2f}" if full else MISSING


def _top_rate(variant: dict[str, Any]) -> float:
    """The highest images/s at any batch size; 0 for an engine that does not pass or was not timed."""
    rates = (variant["images_per_s"] or {}).values() if variant["status"] == "pass" else ()
    return max((rate for rate in rates if rate is not None), default=0.0)


def _best_rate(variant: dict[str, Any]) -> str:
    """The highest rate, and the batch size it is at."""
    rates = {size: rate for size, rate in (variant["images_per_s"] or {}).items() if rate is not None}
    if not rates:
        return MISSING
    best = max(rates, key=lambda size: rates[size])
    return f"{quantity(rates[best])} (b{best})"


def write_table(path: Path, table: str) -> None:
    """Put `table` between the markers of a Markdown file, in one move; InputError where it has not both."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"{path} has no place for the table", got="no file" if not path.is_file() else "no such pair of lines",
            allowed=f"a line {BEGIN} and after it a line {END}", next_step="add these two lines where the table is to be",
        )  # fmt: skip
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f"{before}{begin}\n{table}{end}{after}", encoding="utf-8")
    os.replace(partial, path)
