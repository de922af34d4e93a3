"""What `t2t-edge report` takes besides a recipe and a run."""

import argparse
from pathlib import Path


def add_report_options(command: argparse.ArgumentParser) -> None:
    """Runs side by side, and where results are kept."""
    command.add_argument(
        "--compare", nargs="+", type=Path, metavar="RUN", default=[],
        help="no stage runs; these are put side by side: folders of runs or of results, report.json and results files",
    )  # fmt: skip
    command.add_argument(
        "--out", type=Path, default=Path("runs/compare"), help="where --compare writes; default: %(default)s"
    )
    command.add_argument("--save", type=Path, metavar="PLACE", help="keep the report(s) in PLACE/<machine>.json")
    command.add_argument("--table", type=Path, metavar="FILE", help="put a table of the reports into a Markdown file")
