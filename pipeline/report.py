"""The report: what evaluation and benchmark measured, as report.json, report.md, report.html and tradeoff.png."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.report_format import (
    batch_sizes,
    drop,
    latency,
    megabytes,
    number,
    rate,
    reasons,
    recommendation,
)
from pipeline.report_html import html_page
from pipeline.report_markdown import markdown_page
from pipeline.report_rows import join_report, pareto_names, recommended
from pipeline.tradeoff import draw_tradeoff

if TYPE_CHECKING:
    from rich.console import Console

Percent = Annotated[float, Field(ge=0, le=100)]
Difference = Annotated[float, Field(ge=-100, le=100)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BatchSize = Annotated[str, Field(pattern=r"^[1-9][0-9]*$")]
Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Dataset(_Part):
    name: Text
    classes: Annotated[int, Field(gt=0)] | Annotated[list[Text], Field(min_length=1)]  # how many, or their names
    eval_images: Count
    calibration_images: Count


class _Machine(_Part):
    cpu: Text
    gpu: Text | None
    versions: dict[str, str]


class _Gate(_Part):
    min_relative_top1: Annotated[float, Field(ge=0, le=1)]


class _Latency(_Part):
    p50: Positive
    p90: Positive
    p99: Positive


class _Layers(_Part):
    int8: Count
    fp16: Count
    fp32: Count


class _Variant(_Part):
    name: Text
    precision: Text
    backend: Text
    status: Literal["pass", "fail", "unavailable", "error"]
    reason: str
    top1: Percent | None
    top5: Percent | None
    delta_top1_pp: Difference | None
    ci95_pp: Annotated[list[Difference], Field(min_length=2, max_length=2)] | None
    agreement: Percent | None
    latency_ms: _Latency | None
    images_per_s: dict[BatchSize, Positive | None] | None
    size_bytes: Count | None
    peak_memory_bytes: Count | None
    energy_mj: Annotated[float, Field(ge=0)] | None
    layers: _Layers | None
    pareto: bool
    artifact: Text | None
    sha256: Sha256 | None

    @model_validator(mode="after")
    def _status_fits(self) -> "_Variant":
        judged = (self.top1, self.top5, self.delta_top1_pp, self.ci95_pp, self.agreement)
        if self.status in ("pass", "fail") and None in judged:
            raise ValueError(f"{self.name} has status {self.status} but not all of its accuracy")
        if self.status == "pass" and None in (self.artifact, self.sha256):
            raise ValueError(f"{self.name} passes, so it needs its artifact and sha256")
        if self.status == "unavailable" and (self.top1 is not None or self.latency_ms is not None):
            raise ValueError(f"{self.name} is unavailable, yet has measurements")
        if self.status != "pass" and not self.reason.strip():
            raise ValueError(f"{self.name} has status {self.status} and no reason")
        return self


class _Recommended(_Part):
    name: Text
    backend: Text


class _Report(_Part):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    run: Text
    model: Text
    dataset: _Dataset
    machine: _Machine
    preprocess_sha256: Sha256
    gate: _Gate
    variants: list[_Variant]
    recommended: _Recommended | None


def check_report(report: dict[str, Any]) -> None:
    """Raise ValueError, naming every problem, unless `report` has exactly report.json's keys, types and ranges.

    Also wrong: one name twice, NaN or infinity anywhere, a `pareto` flag or a recommendation that the numbers do not
    give.
    """
    try:
        _Report.model_validate(report)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or 'report'}: {p['msg']}" for p in error.errors()]
        raise ValueError("this is not a report:\n  " + "\n  ".join(problems)) from error
    names = [variant["name"] for variant in report["variants"]]
    if len(set(names)) != len(names):
        raise ValueError(f"this is not a report: variant names must differ, got {names}")
    front, flagged = pareto_names(report["variants"]), {v["name"] for v in report["variants"] if v["pareto"]}
    if front != flagged:
        raise ValueError(f"this is not a report: the Pareto front is {sorted(front)}, flagged is {sorted(flagged)}")
    if report["recommended"] != recommended(report["variants"]):
        raise ValueError(
            f"this is not a report: it recommends {report['recommended']}, "
            f"its numbers {recommended(report['variants'])}"
        )


def build_report(
    *,
    run: str,
    model: str,
    evaluation: dict[str, Any],
    benchmark: dict[str, Any],
    preprocess_sha256: str,
    min_relative_top1: float,
) -> dict[str, Any]:
    """Join the evaluation stage's and the benchmark stage's JSON into what report.json holds; what is missing is null.

    ValueError when the two do not belong together or hold what a report may not (see `check_report`).
    """
    report = join_report(
        run=run, model=model, evaluation=evaluation, benchmark=benchmark, preprocess_sha256=preprocess_sha256,
        min_relative_top1=min_relative_top1,
    )  # fmt: skip
    check_report(report)
    return report


def write_report(
    report: dict[str, Any], folder: Path, reference: dict[str, Any], mode: dict[str, Any],
    sections: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write report.json, report.md, report.html and tradeoff.png into `folder`.

    `reference` is the evaluation's ({"name", "top1", "top5"}), `mode` the benchmark's ({"threads", "warmup", "rounds",
    "calls"}), `sections` further HTML for report.html. The files are written
    one by one: give a temporary folder to have all or none.
    """
    check_report(report)
    picture = draw_tradeoff(report, reference)
    texts = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown_page(report, reference, mode),
        "report.html": html_page(report, reference, mode, picture, sections),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tradeoff.png").write_bytes(picture)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


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
    conclusion, command = recommendation(report)
    console.print()
    console.print(Styled(conclusion, style="bold green" if report["recommended"] else "bold red"))
    console.print(Styled.assemble("Next: ", (command, "bold")), soft_wrap=True)


_STYLES = {"pass": "", "fail": "red", "error": "red", "unavailable": "dim"}


def _terminal_table(report: dict[str, Any], intervals: bool) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text as Styled

    sizes = batch_sizes(report)
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("backend", overflow="fold")
    table.add_column("precision", overflow="fold")
    for heading in ("top-1", "Δ pp [95 %]" if intervals else "Δ pp", "agree", "p50 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for size in sizes:
        table.add_column(f"img/s\nb{size}", justify="right", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for variant in report["variants"]:
        chosen = variant["name"] == (report["recommended"] or {}).get("name")
        change = drop(variant) if intervals else drop({**variant, "ci95_pp": None})
        cells = [variant["backend"], _precision_and_target(variant), number(variant["top1"]), change]
        cells += [number(variant["agreement"], 1), latency(variant), *(rate(variant, size) for size in sizes)]
        cells += [megabytes(variant["size_bytes"]), variant["status"] + (" *" if variant["pareto"] else "")]
        table.add_row(*map(Styled, cells), style="bold green" if chosen else _STYLES[variant["status"]])
    if any(variant["pareto"] for variant in report["variants"]):
        table.caption = "* nothing here is both faster and more accurate (Pareto front)"
        table.caption_justify = "left"
    return table


def _precision_and_target(variant: dict[str, Any]) -> str:
    """`int8 sm86`: the precision, and what a name says beyond `<backend>-<precision>`."""
    rest = variant["name"].removeprefix(f"{variant['backend']}-{variant['precision']}")
    return f"{variant['precision']} {rest.strip('-')}".strip()
