"""Each part in a process of its own: whatever ends it, a crash of the GPU's driver too, is a row, and the next part goes on."""

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_parts.failures import LONGEST, PROGRESS, RESULT
from bench.gpu_parts.parts import Part

WORTH_STARTING = 0.6  # of the seconds that a part takes: with less left, it is left for the next call


@dataclass(frozen=True)
class Outcome:
    """What became of a part, and the seconds that it took."""

    row: dict[str, Any]
    seconds: float


def run_parts(
    parts: Sequence[Part], command: Sequence[str], limit: float, deadline: float, finished: Callable[[Part, Outcome], None]
) -> list[str]:  # fmt: skip
    """Run `command` for each part, at most `limit` seconds each and none beyond `deadline` (time.monotonic).

    `finished` gets each part that was measured or failed. Returns the names of those for which there was no time.
    """
    left = []
    for part in parts:
        outcome = None
        if deadline - time.monotonic() >= WORTH_STARTING * part.seconds:
            outcome = run_part(part, command, limit, deadline)
        if outcome is None:
            left.append(part.name)
        else:
            finished(part, outcome)
    return left


def run_part(part: Part, command: Sequence[str], limit: float, deadline: float) -> Outcome | None:
    """Run one part; None where the deadline came first. A variant at which the process ends is left out of the next try."""
    started = time.monotonic()
    without: dict[str, str] = {}
    while True:
        allowed = min(limit, deadline - time.monotonic())
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            given = ["--part", part.name, "--write", scratch, "--without", json.dumps(without)]
            reason = _run_child([*command, *given], allowed)
            seconds = round(time.monotonic() - started, 1)
            if (folder / RESULT).is_file():
                return Outcome(json.loads((folder / RESULT).read_text(encoding="utf-8")), seconds)
            at = json.loads((folder / PROGRESS).read_text(encoding="utf-8")) if (folder / PROGRESS).is_file() else {}
        if reason is None and allowed < limit:
            return None
        reason = at.get("reason") or reason or f"not ready after {limit:g} s"
        name = at.get("at", "")
        if name in ("", "turns") or name in without:
            return Outcome({"failed": reason}, seconds)
        without[name] = reason


def _run_child(command: Sequence[str], allowed: float) -> str | None:
    """How the process ended, in words; None where it was stopped after `allowed` seconds."""
    with tempfile.TemporaryFile() as errors:
        try:
            status = subprocess.run(command, stderr=errors, timeout=max(0.0, allowed), check=False).returncode
        except subprocess.TimeoutExpired:
            return None
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    ended = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"exit status {status}"
    return f"{ended}: {said[-1] if said else 'it said nothing'}"[:LONGEST]
