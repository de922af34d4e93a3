"""One process at a time writes a run: a lock in its folder, held while a command writes."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import filelock

from calib.errors import InputError
from export.engines.sidecar import LOCK_NOTE
from pipeline.artifact import write_json

LOCK = ".lock"
_LEFT_SECONDS = 20.0  # what a killed command's own processes, which share its lock, may need to end


@contextmanager
def hold(run_folder: Path, command: str) -> Iterator[None]:
    """Hold the run's lock. InputError where another process does: which one, since when, and what to do.

    The system frees the lock with the process that held it, however that ended. Under torchrun rank 0 holds it for all. There is
    none where the folder cannot be written, as of a run that is only read, or on a file system without locks, which is said.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        yield
        return
    run_folder.mkdir(parents=True, exist_ok=True)
    if not os.access(run_folder, os.W_OK | os.X_OK):
        yield
        return
    lock = filelock.FileLock(run_folder / LOCK, mode=0o666)  # whoever may write the folder can see that it is held
    try:
        _acquire(lock, run_folder)
    except (OSError, NotImplementedError) as error:
        print(
            f"warning: {run_folder} cannot be locked ({error}): see to it that no other command writes it",
            file=sys.stderr,
        )
        yield
        return
    try:
        _write_note(run_folder / LOCK_NOTE, command)
        yield
    finally:
        (run_folder / LOCK_NOTE).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: filelock.BaseFileLock, run_folder: Path) -> None:
    """At once; where the process that is noted is dead, what it left running is waited for."""
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        holder = _read(run_folder / LOCK_NOTE)
        if not _is_dead(holder):
            raise _held(run_folder, holder) from None
        print(f"waiting for what process {holder['pid']}, which has ended, left running in {run_folder}", flush=True)
        try:
            lock.acquire(timeout=_LEFT_SECONDS)
        except filelock.Timeout:
            raise _held_by_left(run_folder, holder) from None


def _write_note(note: Path, command: str) -> None:
    """Say who holds the lock. On a full disk it holds without: `runs --prune` makes room."""
    try:
        write_json(note, _note(command))
    except OSError:
        for path in (note, note.with_name(f".{note.name}.partial")):  # an earlier holder's would say what is not so
            with suppress(OSError):
                path.unlink()


def _note(command: str) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": command}


def _read(note: Path) -> dict[str, Any]:
    """What the holder noted of itself; empty where it has not yet, or the note cannot be read."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        time.sleep(0.2)  # it may be between its lock and its note
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
    return found if isinstance(found, dict) and {"pid", "host", "since", "command"} <= found.keys() else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the process that is noted was on this host, and is none any more."""
    if not holder or holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False


def _held(run_folder: Path, holder: dict[str, Any]) -> InputError:
    if not holder:
        return InputError(
            "another process is writing this run", got=f"{run_folder} is locked by a process that has not said which it is",
            allowed="one command at a time on a run", next_step=f"find it: fuser -v '{run_folder / LOCK}'",
        )  # fmt: skip
    here = holder["host"] == socket.gethostname()
    since = datetime.fromisoformat(holder["since"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    where = f"process {holder['pid']}{'' if here else ' on the host ' + holder['host']}"
    end = f"kill {holder['pid']}" if here else f"ssh {holder['host']} kill {holder['pid']}"
    return InputError(
        "another process is writing this run", got=f"{run_folder}: {where}, since {since}: {holder['command']}",
        allowed="one command at a time on a run; predict, --dry-run and report --compare may read it meanwhile",
        next_step=f"wait until it is done, or end it ({end}): what is finished is kept; or name another run: --run NAME",
    )  # fmt: skip


def _held_by_left(run_folder: Path, holder: dict[str, Any]) -> InputError:
    return InputError(
        "the run is held by what a dead process has left running",
        got=f"{run_folder}: process {holder['pid']} ({holder['command']}) has ended, but not all that it started",
        allowed="one command at a time on a run", next_step=f"see which they are, and end them: fuser -v '{run_folder / LOCK}'",
    )  # fmt: skip
