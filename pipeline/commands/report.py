"""`t2t-edge report` and `run`: every stage, the table, and with --compare reports side by side."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.command import run_folder
from pipeline.commands.stage import EXAMPLE, add_stage_command, make, tell_outcome
from pipeline.console.exit_status import DONE, FAILED, GATE_FAILED

if TYPE_CHECKING:
    from pipeline.artifact import Artifact
    from pipeline.commands.command import Commands


def register(commands: "Commands") -> None:
    """Add the commands."""
    command = add_stage_command(commands, "report", "… and write the report", _report, (EXAMPLE,))
    command.add_argument(
        "--compare", nargs="+", type=Path, metavar="RUN", default=[],
        help="no stage runs; these are put side by side: folders of runs or of results, report.json and results files",
    )  # fmt: skip
    command.add_argument(
        "--out", type=Path, default=Path("runs/compare"), help="where --compare writes; default: %(default)s"
    )
    command.add_argument("--save", type=Path, metavar="PLACE", help="keep the report(s) in PLACE/<machine>.json")
    command.add_argument("--table", type=Path, metavar="FILE", help="put a table of the reports into a Markdown file")
    more = (f"{EXAMPLE} --dry-run     which stages would run, and why", f"{EXAMPLE} --json > result.json")
    add_stage_command(commands, "run", "all stages, the same as report", _run, (EXAMPLE, *more))


def _report(options: argparse.Namespace) -> int:
    folder = run_folder(options)
    if options.compare:
        from pipeline.report.compare import compare_reports

        compare_reports(options)
        return DONE
    artifact = make(options, "report")
    if artifact is None:
        return DONE
    status = _tell(options, artifact)
    if options.save or options.table:
        from pipeline.report.compare import keep_reports
        from pipeline.report.values.compared import read_compared

        keep_reports(read_compared([folder]), options)
    return status


def _run(options: argparse.Namespace) -> int:
    artifact = make(options, "report")
    return DONE if artifact is None else _tell(options, artifact)


def _tell(options: argparse.Namespace, artifact: "Artifact") -> int:
    """Print the table; the exit status says whether an engine is recommended."""
    from pipeline.report.terminal import print_table
    from pipeline.report.values.rows import gate_failed

    tell_outcome(options, "report", artifact)
    report = json.loads(artifact.path("report.json").read_text(encoding="utf-8"))
    options.document["report"] = report
    print_table(report)
    return DONE if report["recommended"] else GATE_FAILED if gate_failed(report["variants"]) else FAILED
