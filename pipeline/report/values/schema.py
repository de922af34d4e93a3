"""Whether a report.json is one: its keys, types and ranges, and that its conclusions are those of its numbers."""

from typing import Any

from pydantic import ValidationError

from pipeline.report.values.rows import pareto_names, recommended
from pipeline.report.values.schema_tasks import schema_of
from pipeline.tasks.words import words_of

_MOST_PROBLEMS = 12  # of a report, in a message


def check_report(report: dict[str, Any]) -> None:
    """Raise ValueError, naming the problems, unless `report` has exactly report.json's keys, types and ranges.

    Also wrong: one name twice, NaN or infinity anywhere, a `pareto` flag or a recommendation that the numbers do not
    give.
    """
    schema = schema_of(report)
    try:
        schema.model_validate(report)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or 'report'}: {p['msg']}" for p in error.errors()]
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ValueError("this is not a report:\n  " + "\n  ".join(problems[:_MOST_PROBLEMS] + more)) from error
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
