"""Which runs there are, for Tab and for the message where a run is named that does not exist."""

import shlex
from collections.abc import Callable
from pathlib import Path

from calib.errors import InputError
from export.engines.sidecar import RECIPE_PATH
from pipeline.artifact import MANIFEST
from pipeline.console.figures import first_names
from pipeline.parts.nearest import did_you_mean, nearest

NEW_RUN = Path("recipes/demo.yaml")  # what a run is made from, and named after, where nothing was said
_SHOWN = 8  # runs in a message


def is_run(folder: Path) -> bool:
    """Whether a command has begun a run there, or a finished one was copied there. `runs/compare`, for one, is none."""
    marks = (RECIPE_PATH, f"*/{MANIFEST}", "*/report.json")
    return folder.is_dir() and any(any(folder.glob(mark)) for mark in marks)


def runs_in(place: Path) -> list[str]:
    """The names of the runs in a folder, sorted; none where there is no such folder."""
    if not place.is_dir():
        return []
    return sorted(found.name for found in place.iterdir() if not found.name.startswith(".") and is_run(found))


def near_run(folder: Path) -> list[str]:
    """The run beside `folder` whose name looks like its name; [] where none does."""
    return nearest(folder.name, runs_in(folder.parent))


def runs_beside(folder: Path) -> str:
    """`the runs in runs: demo, emoji`, those first whose names look most like that of `folder`."""
    names = runs_in(folder.parent)
    nearest_first = nearest(folder.name, names, most=len(names), cutoff=0)
    return f"the runs in {folder.parent}: {first_names(nearest_first, _SHOWN) or 'none'}"


def command_for(folder: Path, command: str) -> str:
    """`t2t-edge COMMAND` for the run in `folder`, wherever it lies: in `runs` it would be another run, and perhaps a new one."""
    runs = "" if str(folder.parent) == "runs" else f" --runs {shlex.quote(str(folder.parent))}"
    return f"t2t-edge {command} --run {shlex.quote(folder.name)}{runs}"


def finishing(folder: Path) -> str:
    """What finishes the run in `folder`."""
    return f"make export RUN={folder.name}" if str(folder.parent) == "runs" else command_for(folder, "run")


def no_such_run(folder: Path, command: Callable[[str], str], new: str | None = None) -> InputError:
    """The message for `runs/NAME` that is no run. `command` is what was asked for, with another name; `new`, where the command
    makes runs, is what makes this one."""
    near, there = near_run(folder), runs_beside(folder)
    got = "it holds nothing of a run" if folder.is_dir() else "there is no such folder"
    return InputError(
        f"there is no run {folder.name}", got=f"{folder}: {got}{did_you_mean(near)}",
        allowed=f"{there}; for a new one: {new}" if new else there,
        next_step=command(near[0]) if near else new or _without_near(folder, command),
    )  # fmt: skip


def _without_near(folder: Path, command: Callable[[str], str]) -> str:
    """A choice among the runs there are; where there are none, how one is made: never a command that would train at once."""
    return command("NAME") if runs_in(folder.parent) else "t2t-edge run --help says how a run is made"
