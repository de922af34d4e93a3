"""The process on a device that runs a bundle's steps one after the other and outlives every connection.

It holds the device's lock, as do the steps that it starts, and writes into the session's state what became of them.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.devices.remote.session import ENDED, Session, State

RESULTS = (
    "build/engines.json", "evaluation.json", "logits.npz", "maps.npz", "benchmark.json", "report/report.json", "report/report.md",
)  # fmt: skip
PASSED = (0, 3)  # after these the next step runs: done, and no engine passes the gate
_SLEPT = 5.0  # seconds; clocks differ by less
_TAIL = 1 << 14  # bytes of the log that may hold a step's error
_NO_ROOM = 1 << 16  # bytes
_TERM_SECONDS = 10.0
_BUILDING = re.compile(r"^(\S+): building", re.MULTILINE)


class Stopped(Exception):
    """The host asked for the end of the run."""


def supervise(request: dict[str, Any]) -> None:
    """Run `request["steps"]`, each a name, arguments and its limit in seconds; the state has the outcome at the end."""
    session = Session.at(request["place"])
    state = session.read() or {}
    signal.signal(signal.SIGTERM, _stop)
    status, problem = 0, None
    try:
        state |= {"pid": os.getpid()}
        session.write(state)
        for step in request["steps"]:
            status, problem = _run_step(session, state, step, request["lock"])
            if problem is not None or status not in PASSED:
                break
    except Stopped:
        status, problem = 1, {"kind": "stopped", "step": state.get("step")}
    except OSError as error:
        status, problem = 1, _failed(session, state.get("step", ""), f"error: {error}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    session.write(state | {
        "phase": ENDED, "status": status, "problem": problem, "ended": time.time(), "child": None, "results": results(session),
    })  # fmt: skip
    os.ftruncate(request["lock"], 0)  # who held it is no news any more


def _stop(*_: object) -> None:
    raise Stopped


def _run_step(
    session: Session, state: State, step: dict[str, Any], lock: int
) -> tuple[int, dict[str, Any] | None]:  # fmt: skip
    """The exit status of a step, and what went wrong where it is more than that."""
    name = step["name"]
    slept, killed = asleep(), oom_kills()
    command = [sys.executable, "t2t", name, "--work", str(session.work), *step["arguments"]]
    begin = session.log.stat().st_size if session.log.exists() else 0
    with session.log.open("ab") as log:
        child = subprocess.Popen(
            command, cwd=session.bundle, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            pass_fds=[lock], env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            state |= {"step": name, "step_started": time.time(), "child": child.pid}
            session.write(state)
            status = child.wait(step["seconds"])
        except subprocess.TimeoutExpired:
            end_group(child)
            return 1, {"kind": "timeout", "step": name, "seconds": step["seconds"], "engine": _building(session, begin)}
        except BaseException:
            end_group(child)
            raise
    if status < 0:
        out_of_memory = -status == signal.SIGKILL and oom_kills() > killed
        return 1, {"kind": "killed", "step": name, "signal": -status, "out_of_memory": out_of_memory,
                   "engine": _building(session, begin) if name == "build" else None}  # fmt: skip
    if (seconds := asleep() - slept) > _SLEPT and name == "benchmark":
        return 1, {"kind": "slept", "step": name, "seconds": seconds}
    return status, None if status in PASSED else _failed(session, name, _tail(session, begin), status)


def _failed(session: Session, step: str, text: str, status: int = 1) -> dict[str, Any]:
    said = "No space left on device" in text or "the disk is full" in text
    full = said or shutil.disk_usage(session.root).free < _NO_ROOM
    return {
        "kind": "disk" if full else "failed",
        "step": step,
        "status": status,
        "text": text,
        "place": str(session.root),
    }


def _tail(session: Session, begin: int) -> str:
    """The last error that a step printed; else its last line."""
    text = _log_since(session, begin).rstrip()
    at = max(text.rfind("\nerror:"), 0 if text.startswith("error:") else -1)
    return text[at:].strip() if at >= 0 else text.rpartition("\n")[2]


def _building(session: Session, begin: int) -> str | None:
    """The engine that was being built last."""
    found = _BUILDING.findall(_log_since(session, begin))
    return found[-1] if found else None


def _log_since(session: Session, begin: int) -> str:
    with session.log.open("rb") as log:
        log.seek(max(begin, session.log.stat().st_size - _TAIL))
        return log.read().decode(errors="replace")


def end_group(child: "subprocess.Popen[bytes]") -> None:
    """End a step and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(_TERM_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


def asleep() -> float:
    """Seconds that the device has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def oom_kills() -> int:
    """How often the system has ended a process for want of memory; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def results(session: Session) -> dict[str, str]:
    """sha256 of each result that is there."""
    return {name: sha256(session.work / name) for name in RESULTS if (session.work / name).is_file()}


def sha256(path: Path) -> str:
    """Of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
