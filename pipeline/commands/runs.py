"""`t2t-edge runs`: which runs there are, and what each keeps of earlier results; `--prune` removes that."""

import argparse
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import InputError
from pipeline.commands.command import add_command, command_line
from pipeline.console.exit_status import DONE
from pipeline.console.figures import counted, duration, megabytes

if TYPE_CHECKING:
    from pipeline.commands.command import Commands
    from pipeline.run.inventory import Kept, Run


def register(commands: "Commands") -> None:
    """Add the command."""
    command = add_command(
        commands, "runs", "the runs there are, how large and how old, and what is kept of earlier results", _runs,
        ("t2t-edge runs", "t2t-edge runs --prune     removes what is kept of earlier results, after naming it"),
    )  # fmt: skip
    command.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the runs; default: %(default)s")
    command.add_argument(
        "--prune", action="store_true", help="remove what is kept of earlier results: it names all of it, then asks"
    )
    command.add_argument("--yes", action="store_true", help="with --prune: do not ask")


def _runs(options: argparse.Namespace) -> int:
    from pipeline.run.inventory import list_runs

    runs = list_runs(options.runs)
    now = datetime.now(timezone.utc)
    options.document |= {"runs": [_row(run) for run in runs]}
    if not runs:
        print(f"no runs in {options.runs}; make export makes the first")
    for run in runs:
        _print(run, now)
    kept = [one for run in runs for one in run.kept]
    if options.prune:
        _prune(options, runs, kept)
    elif kept:
        print(
            f"{_total(kept)} of earlier results, which come back with what they were made from; "
            f"next: {_again(options, prune=True)}"
        )
    return DONE


def _print(run: "Run", now: datetime) -> None:
    state = f"cannot be read: {run.problem}" if run.problem else f"complete: {', '.join(run.stages) or 'nothing'}"
    print(f"{run.name}  {megabytes(run.bytes)} MB, {_age(run.changed, now)} old, {state}")
    for one in run.kept:
        print(f"    kept: {_line(one, now)}")


def _line(kept: "Kept", now: datetime) -> str:
    what = f"finished {f'{_age(kept.finished, now)} ago' if kept.finished else 'at an unknown time'}"
    what = "interrupted" if kept.interrupted else what
    damaged = "" if kept.whole else ", damaged"
    return f"{kept.stage}, {what}{damaged}, {megabytes(kept.bytes)} MB  {kept.path}"


def _age(then: datetime, now: datetime) -> str:
    return duration(max(0.0, (now - then).total_seconds()))


def _total(kept: list["Kept"]) -> str:
    return f"{megabytes(sum(one.bytes for one in kept))} MB in {counted(len(kept), 'folder')}"


def _prune(options: argparse.Namespace, runs: list["Run"], kept: list["Kept"]) -> None:
    """Remove what was named, run by run, each held meanwhile."""
    from pipeline.run.inventory import kept_in, remove_kept
    from pipeline.run.lock import hold

    removed: list[Kept] = []
    options.document["removed"] = []
    if not kept:
        print("nothing is kept of earlier results")
        return
    if not options.yes and not _agreed(options, f"remove {_total(kept)}, the ones named above? [y/N] "):
        print("nothing was removed")
        return
    for run in runs:
        if run.kept:
            with hold(run.folder, command_line(options)):
                there = kept_in(
                    run.folder
                )  # while it was asked, a command may have taken one back, or put others aside
                for one in (named for named in run.kept if named in there):
                    remove_kept(one)
                    removed.append(one)
                    options.document["removed"].append(str(one.path))
    print(f"removed: {_total(removed)}")
    if len(removed) < len(kept):
        print(
            f"{counted(len(kept) - len(removed), 'folder')} left: no longer what was named above; next: {_again(options)}"
        )


def _again(options: argparse.Namespace, *, prune: bool = False) -> str:
    """The command for the same folder of runs: for another one it would remove what nobody has been shown."""
    runs = "" if str(options.runs) == "runs" else f" --runs {shlex.quote(str(options.runs))}"
    return f"t2t-edge runs{runs}{' --prune' if prune else ''}"


def _agreed(options: argparse.Namespace, question: str) -> bool:
    if not sys.stdin.isatty():
        raise InputError(
            "nobody can be asked whether to remove it", got="no terminal", allowed="a terminal, or --yes",
            next_step=f"{_again(options, prune=True)} --yes",
        )  # fmt: skip
    print(question, end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _row(run: "Run") -> dict[str, Any]:
    return {
        "name": run.name, "folder": str(run.folder), "stages": list(run.stages), "bytes": run.bytes,
        "changed": run.changed.isoformat(timespec="seconds"), "problem": run.problem,
        "kept": [
            {
                "stage": one.stage, "folder": str(one.path), "bytes": one.bytes, "whole": one.whole,
                "interrupted": one.interrupted,
                "finished": one.finished and one.finished.isoformat(timespec="seconds"),
            }
            for one in run.kept
        ],
    }  # fmt: skip
