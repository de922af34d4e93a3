"""What a stage command did, where it is and what comes next: as text, and as the result of --json."""

import argparse
import shlex
from typing import Any

from pipeline.artifact import Artifact

_NEXT = {
    "train": "export",
    "export": "calibrate",
    "calibrate": "quantize",
    "sensitivity": "search",
    "search": "quantize",
    "qat": "quantize",
    "quantize": "build",
    "build": "evaluate",
    "evaluate": "benchmark",
}  # fmt: skip  (after any other stage: report)
_SHOWN = 6  # files named in the text


def stage_outcome(options: argparse.Namespace, stage: str, artifact: Artifact) -> dict[str, Any]:
    """`stage`, `folder`, `outputs` (relative names), `notes` (what was measured), `seconds` and `next`, a command."""
    return {
        "stage": stage, "folder": str(artifact.folder), "outputs": sorted(artifact.outputs),
        "seconds": artifact.seconds, "notes": artifact.notes, "next": next_command(options, stage),
    }  # fmt: skip


def next_command(options: argparse.Namespace, stage: str) -> str:
    """What to run after `stage`."""
    if stage != "report":
        return f"t2t-edge {_NEXT.get(stage, 'report')} --recipe {shlex.quote(str(options.recipe))} {where(options)}"
    return f"t2t-edge predict {where(options)} IMAGE"


def where(options: argparse.Namespace) -> str:
    """The options that name the run."""
    run, runs = shlex.quote(options.run), str(options.runs)
    return f"--run {run}" + ("" if runs == "runs" else f" --runs {shlex.quote(runs)}")


def print_outcome(outcome: dict[str, Any]) -> None:
    """Two lines: where it is, and the next command, which the report's table says itself."""
    names = outcome["outputs"]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    print(f"  written: {outcome['folder']}: {', '.join(names[:_SHOWN])}{more}")
    if outcome["stage"] != "report":
        print(f"  next: {outcome['next']}")
