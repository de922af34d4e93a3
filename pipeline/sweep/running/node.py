"""One stage of one point, run in a process of Ray's: what it reads is taken over from the runs that made it."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import filelock

from calib.errors import InputError
from pipeline.artifact import Artifact, read_artifact
from pipeline.console.exit_status import GateFailed
from pipeline.console.run_log import RunLog
from pipeline.sweep.running.adopt import adopt

RETRIES = 2  # of what runs in a process or on a machine that dies: a stage goes on where it was
_LEFT_SECONDS = 60.0  # what another process, left of a killed sweep, may need to end
_LONGEST = 300  # characters of a reason


@dataclass(frozen=True)
class Job:
    """What a process is to do: `stage` of `recipe` in `run_folder`, from the folder `here`, with so many `threads`.

    `min_score` is what FP32 has to reach for anything to be made of it, in percent.
    """

    point: str
    stage: str
    recipe: Path
    run_folder: Path
    here: Path
    threads: int
    min_score: float | None


@dataclass(frozen=True)
class Made:
    """A result: where it is, its key, the seconds it took, and FP32's score where the stage has measured it."""

    stage: str
    folder: Path
    key: str
    seconds: float
    score: float | None


@dataclass(frozen=True)
class NotMade:
    """Why a result is not there: the stage that failed, or before which the point was left."""

    status: Literal["failed", "skipped", "stopped"]
    stage: str
    reason: str


def run_node(job: Job, *inputs: Made | NotMade) -> Made | NotMade:
    """Make one result from its `inputs`; a failure is a result, too, and what depends on it fails with the same reason."""
    for found in inputs:
        if isinstance(found, NotMade):
            return found
    made = [found for found in inputs if isinstance(found, Made)]
    if (low := too_low(made, job.stage, job.min_score)) is not None:
        return low
    log = RunLog(_same_command(job))
    try:
        log.begin(job.run_folder)
        return _run(job, made)
    except (InputError, GateFailed) as error:
        print(f"error: {error}", flush=True)
        got = getattr(error, "got", None)
        return NotMade("failed", job.stage, _line(f"{getattr(error, 'what', error)}" + (f": {got}" if got else "")))
    except Exception as error:  # of a package beneath: the point is a row with this reason, its log has the place
        traceback.print_exc()
        return NotMade("failed", job.stage, _line(f"{type(error).__name__}: {error}"))
    finally:
        log.end()


def too_low(inputs: Sequence[Made], stage: str, min_score: float | None) -> NotMade | None:
    """Why `stage` is not made of weights that reach too little, where that is asked for."""
    scores = [found.score for found in inputs if found.score is not None]
    if min_score is None or not scores or scores[0] >= min_score:
        return None
    return NotMade("skipped", stage, f"FP32 reaches {scores[0]:.2f} %, {min_score:g} % are asked for")


def made_of(artifact: Artifact, stage: str) -> Made:
    """What is told of an artifact."""
    score = next((artifact.notes[name] for name in ("top1", "miou") if artifact.notes.get(name) is not None), None)
    return Made(
        stage, artifact.folder, artifact.key, artifact.seconds,
        score if stage in ("train", "export") else None,
    )  # fmt: skip


def _same_command(job: Job) -> list[str]:
    """What makes the same result alone, as a header of the run's log."""
    run, runs = job.run_folder.name, str(job.run_folder.parent)
    return [job.stage, "--recipe", str(job.recipe), "--run", run, "--runs", runs]


def _run(job: Job, inputs: list[Made]) -> Made:
    import torch

    from pipeline.recipe import load_recipe
    from pipeline.resolve.resolve import resolve
    from pipeline.stages import STAGES, run_stage

    os.chdir(job.here)
    if str(job.here) not in sys.path:  # a factory's module
        sys.path.insert(0, str(job.here))
    torch.set_num_threads(job.threads)
    (stage,) = (stage for stage in STAGES if stage.name == job.stage)
    done = {found.stage: adopt(_artifact(found), job.run_folder, found.stage) for found in inputs}
    with _alone(job):
        resolved = resolve(load_recipe(job.recipe), decode=job.stage == "train")
        say = partial(print, flush=True)
        return made_of(run_stage(stage, resolved.recipe, done, job.run_folder, resolved.look, say), job.stage)


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[None]:
    """One process at a time makes a stage of a run: another may be left of a sweep that was killed."""
    job.run_folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(job.run_folder / f".{job.stage}.lock")
    try:
        lock.acquire(timeout=_LEFT_SECONDS)
    except filelock.Timeout:
        raise InputError(
            "another process is making this stage", got=f"{job.run_folder}: {job.stage}", allowed="one at a time",
            next_step=f"end it (fuser -v '{lock.lock_file}'), then run the same command",
        ) from None  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def _artifact(found: Made) -> Artifact:
    artifact = read_artifact(found.folder)
    if artifact is None or artifact.key != found.key:
        raise InputError(
            "a result that this stage reads is not there any more", got=found.folder,
            next_step="run the same command: it is made again",
        )  # fmt: skip
    return artifact


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
