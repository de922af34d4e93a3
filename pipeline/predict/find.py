"""Which engine of a run predicts, and where it is: also while another command is replacing it."""

import json
import time
from pathlib import Path

from calib.errors import InputError
from export.engines.engine import load_engine
from export.engines.sidecar import LOCK_NOTE, SIDECAR, Expected, Sidecar
from export.runner import Runner
from pipeline.console.known_runs import command_for, finishing, is_run, no_such_run

_TRIES, _PAUSE_SECONDS = 20, 0.1  # a stage's result is replaced by two renames


def load_of_run(run_folder: Path, name: str | None, threads: int) -> tuple[Path, Sidecar, Runner]:
    """The folder of a run's engine, see `find_engine`, and the engine as `load_engine` gives it.

    While a command writes the run, results change their places: what is missing at one moment is looked for again, and what was
    loaded is used only if the engine that was checked was still there afterwards.
    """
    for left in reversed(range(_TRIES)):
        try:
            folder, expected = find_engine(run_folder, name)
            sidecar, runner = load_engine(folder, threads, expected=expected)
            if _digest(folder) == expected.engine_sha256:
                return folder, sidecar, runner
            runner.__exit__(None, None, None)
        except (InputError, FileNotFoundError, RuntimeError):
            if not left or not (run_folder / LOCK_NOTE).is_file():
                raise
        time.sleep(_PAUSE_SECONDS)
    raise InputError(
        "the engines of this run are being replaced", got=f"{run_folder}: each time it was loaded, it had another place",
        next_step="wait until the command that writes the run is done",
    )  # fmt: skip


def find_engine(run_folder: Path, name: str | None, next_step: str | None = None) -> tuple[Path, Expected]:
    """The folder of a run's engine `name`, or of the recommended one, and what its files must be by the report."""
    path = run_folder / "report" / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        passed = {str(row["name"]): row["sha256"] for row in report["variants"] if row["status"] == "pass"}
        chosen = str(name or (report["recommended"] or {}).get("name"))
        preprocess_sha256 = report["preprocess_sha256"]
    except FileNotFoundError as error:
        if next_step is None and not is_run(run_folder):
            raise no_such_run(
                run_folder, lambda run: f"{command_for(run_folder.with_name(run), 'predict')} IMAGE"
            ) from error
        runs = ", ".join(sorted(str(found.parents[1].name) for found in run_folder.parent.glob("*/report/report.json")))
        raise InputError(
            "this run has no report", got=f"no file {path}", allowed=f"finished runs: {runs or 'none'}",
            next_step=next_step or finishing(run_folder),
        ) from error  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # incomplete, or not written by a run
        raise InputError(
            "the report of this run cannot be read", got=f"{path}: {type(error).__name__}: {error}",
            next_step=next_step or command_for(run_folder, "report"),
        ) from error  # fmt: skip
    if chosen not in passed:
        raise InputError(
            "no engine of this run passed the accuracy gate"
            if name is None
            else "that engine did not pass, or does not exist",
            got=name or "nothing recommended",
            allowed=", ".join(passed) or "none",
            next_step=f"read {path.with_suffix('.md')}",
        )
    expected = Expected(preprocess_sha256=preprocess_sha256, engine_sha256=passed[chosen])
    return _engine_folder(run_folder, chosen, passed[chosen]), expected


def _engine_folder(run_folder: Path, name: str, sha256: str) -> Path:
    """Where the engine of the report is: in `build`, or, once a build has put another in its place, among the kept results."""
    place = run_folder / "build" / name
    if _digest(place) != sha256:
        for kept in sorted(run_folder.glob(f".kept/build/*/{name}")):
            if _digest(kept) == sha256:
                return kept
    return place


def _digest(engine: Path) -> str | None:
    """The sha256 of an engine's file as its sidecar has it; None where there is none. Loading checks the file itself."""
    try:
        sidecar = json.loads((engine / SIDECAR).read_text(encoding="utf-8"))
        return str(sidecar["files"][sidecar["engine"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None
