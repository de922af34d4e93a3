"""Whether a sweep.json is one: its keys, types and ranges, and that its conclusions are those of its points."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from calib.errors import InputError
from pipeline.report.values.schema import check_keys, check_report
from pipeline.report.values.schema_common import Count, Difference, Part, Percent, Positive, Text
from pipeline.sweep.outcome.document import outcome_of, sweep_document

_Seconds = Annotated[float, Field(ge=0)]


class _Point(Part):
    """A point; `report` is its report.json without `comparison` and `percentiles_ms`."""

    name: Text
    values: dict[Text, Any]
    status: Literal["done", "failed", "skipped", "stopped"]
    reason: Text | None
    stage: Text | None
    seconds: _Seconds
    probe_ms: dict[Text, Positive] | None
    report: dict[str, Any] | None

    @model_validator(mode="after")
    def _status_fits(self) -> "_Point":
        if (self.status == "done") != (self.report is not None):
            raise ValueError(f"{self.name} is {self.status} and has {'no' if self.report is None else 'a'} report")
        if self.status != "done" and self.reason is None:
            raise ValueError(f"{self.name} is {self.status} without a reason")
        if self.report is not None:
            check_report(self.report)
        return self


class _Stage(Part):
    """How often a stage ran, and how often a point took another point's result."""

    made: Count
    shared: Count


class _Engine(Part):
    """An engine of a point's report."""

    point: Text
    engine: Text


class _Best(_Engine):
    command: Text


class _Gain(Part):
    """`value` of `axis` against `against`, a mean over `pairs` (see docs/sweep.md)."""

    axis: Text
    value: Any
    against: Any
    pairs: Annotated[int, Field(gt=0)]
    score_pp: Difference
    latency_ratio: Positive


class SweepDocument(Part):
    """sweep.json. `task` is left out for classification; `front` is by rising latency."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    name: Text
    base: Text
    runs: Text
    task: Literal["segmentation"] | None = None
    axes: dict[Text, list[Any]]
    budget_ms: Positive | None
    min_score: Percent | None
    seconds: _Seconds
    stages: dict[Text, _Stage]
    points: list[_Point]
    front: list[_Engine]
    best: _Best | None
    gains: list[_Gain]
    cautions: list[Text]

    @model_validator(mode="after")
    def _names_differ(self) -> "SweepDocument":
        names = [point.name for point in self.points]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names of points must differ, got twice: {twice}")
        return self


def check_sweep(document: dict[str, Any]) -> None:
    """Raise ValueError, naming the problems, unless `document` has exactly sweep.json's keys, types and ranges.

    Also wrong: a report that is none, NaN or infinity, and a front, a best engine or gains that the points do not give.
    """
    check_keys(SweepDocument, document, "sweep")
    try:
        given = sweep_document(outcome_of(document))
    except InputError as error:
        raise ValueError(f"this is not a sweep: {error}") from error
    if wrong := [key for key in ("task", "front", "best", "gains", "cautions") if document.get(key) != given.get(key)]:
        raise ValueError(f"this is not a sweep: its points do not give its {', '.join(wrong)}")
