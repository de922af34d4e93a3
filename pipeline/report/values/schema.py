"""Whether a report.json is one: its keys, types and ranges, and that its conclusions are those of its numbers."""

from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.report.values.rows import pareto_names, recommended
from pipeline.report.values.schema_tasks import schema_of
from pipeline.tasks.words import words_of

_MOST_PROBLEMS = 12  # of a document, in a message


def check_report(report: dict[str, Any]) -> None:
    """Raise ValueError, naming the problems, unless `report` has exactly report.json's keys, types and ranges.

    Also wrong: one name twice, NaN or infinity anywhere, a `pareto` flag or a recommendation that the numbers do not
    give.
    """
    check_keys(schema_of(report), report, "report")
    words = words_of(report)
    names = [variant["name"] for variant in report["variants"]]
    if len(set(names)) != len(names):
        raise ValueError(f"this is not a report: variant names must differ, got {names}")
    front, flagged = pareto_names(report["variants"], words), {v["name"] for v in report["variants"] if v["pareto"]}
    if front != flagged:
        raise ValueError(f"this is not a report: the Pareto front is {sorted(front)}, flagged is {sorted(flagged)}")
    best = recommended(report["variants"], words)
    if report["recommended"] != best:
        raise ValueError(f"this is not a report: it recommends {report['recommended']}, its numbers {best}")


def check_keys(schema: type[BaseModel], document: dict[str, Any], called: str) -> None:
    """Raise ValueError, naming the first problems, unless `document` has the keys, types and ranges of `schema`."""
    try:
        schema.model_validate(document)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or called}: {p['msg']}" for p in error.errors()]
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ValueError(f"this is not a {called}:\n  " + "\n  ".join(problems[:_MOST_PROBLEMS] + more)) from error
