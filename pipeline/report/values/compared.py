"""Reports side by side, across models, machines and runs: what is read, and what may not be read off it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.errors import InputError
from pipeline.console.figures import counted
from pipeline.console.known_runs import near_run, runs_beside
from pipeline.parts.nearest import did_you_mean
from pipeline.report.values.results import read_results
from pipeline.report.values.schema import check_report
from pipeline.tasks.words import words_of


@dataclass(frozen=True)
class Compared:
    """A report, and the name that tells it from the others."""

    label: str
    report: dict[str, Any]

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The variant that the report recommends."""
        name = (self.report["recommended"] or {}).get("name")
        return next((variant for variant in self.report["variants"] if variant["name"] == name), None)


def machine_name(report: dict[str, Any]) -> str:
    """The GPU where there is one, else the CPU, its cores and its INT8 instructions, on which INT8's speed depends."""
    machine = report["machine"]
    if machine["gpu"]:
        return str(machine["gpu"])
    name, known, instructions = machine["cpu"].partition(", INT8 instructions: ")
    if not known:
        return str(name)
    return f"{name}, {'no INT8 instructions' if instructions == 'none' else instructions}"


def data_of(report: dict[str, Any]) -> str:
    """`fashion-mnist (4,000 images)`: what was evaluated. Only engines of the same can be compared in accuracy."""
    return f"{report['dataset']['name']} ({counted(report['dataset']['eval_images'], 'image')})"


def read_compared(paths: Sequence[Path]) -> list[Compared]:
    """The reports in run folders (`runs/demo`), report.json files, results files and folders of these; else InputError.

    All of one task. Named by their run; by run and machine, then with a number too, where that is not enough.
    """
    reports = [report for path in paths for file in _files(path) for report in _read(file)]
    labels = [str(report["run"]) for report in reports]
    for more in (machine_name, lambda report: report["model"]):
        twice = {label for label, count in Counter(labels).items() if count > 1}
        labels = [
            f"{label}, {more(report)}" if label in twice else label
            for label, report in zip(labels, reports, strict=True)
        ]
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):
        seen[label] += 1
        labels[index] = label if seen[label] == 1 else f"{label} ({seen[label]})"
    compared = [Compared(label, report) for label, report in zip(labels, reports, strict=True)]
    _refuse_several_tasks(compared)
    return compared


def _refuse_several_tasks(compared: Sequence[Compared]) -> None:
    """InputError where not all reports are of one task: their scores measure different things."""
    by_task: dict[str, list[str]] = {}
    for one in compared:
        by_task.setdefault(words_of(one.report).task, []).append(one.label)
    if len(by_task) > 1:
        raise InputError(
            "runs of different tasks cannot be compared",
            got="; ".join(f"{task}: {', '.join(labels)}" for task, labels in by_task.items()), allowed="runs of one task",
            next_step="name the runs of one task: t2t-edge report --compare runs/NAME …",
        )  # fmt: skip


def _files(path: Path) -> list[Path]:
    """The report of a run's folder, or all results files and runs of a folder, or the file itself."""
    places = [path / "report" / "report.json", path / "report.json"] if path.is_dir() else [path]
    found = [place for place in places if place.is_file()][:1] or [
        *(f for f in sorted(path.glob("*.json")) if _may_be_ours(f)),
        *sorted(path.glob("*/report/report.json")),
    ]
    if not found:
        raise InputError(
            f"{path} has no report", got=f"no file {places[0]}{'' if path.exists() else _did_you_mean(path)}",
            allowed="a run's folder (runs/demo), a report.json, a results file, or a folder of runs or of results files"
            + ("" if path.exists() else f"; {runs_beside(path)}"),
            next_step="t2t-edge report --run NAME makes a run's; without --compare",
        )  # fmt: skip
    return found


def _did_you_mean(path: Path) -> str:
    return did_you_mean([str(path.parent / name) for name in near_run(path)])


def _may_be_ours(file: Path) -> bool:
    """Not another tool's JSON that stands in the same folder; a damaged file may be ours, and is reported when it is read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return True
    return isinstance(content, dict) and "schema" in content


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "runs" in content:
            return read_results(content)
        check_report(content)
    except ValueError as error:  # JSON that is cut off, or a report that is none
        raise InputError(f"{file} is no report", got=str(error), allowed="what t2t-edge report writes") from error
    return [content]


def cautions(compared: Sequence[Compared]) -> list[str]:
    """What may not be read off the comparison."""
    datasets = sorted({data_of(c.report) for c in compared})
    machines = {machine_name(c.report) for c in compared}
    found = []
    if len(datasets) > 1:
        found.append(
            f"The runs were evaluated on different images, so their {words_of(compared[0].report).score_name} cannot be "
            f"compared, and there is no common Pareto front: {', '.join(datasets)}."
        )
    if len(machines) > 1:
        found.append(f"The runs were measured on different machines: {'; '.join(sorted(machines))}.")
    return found
