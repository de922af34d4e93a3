"""Processes of our own that start at once: forked from a server that has imported torch and the training a single time.

A fresh Python needs seconds for these imports. What a test is about (signals, exit status, files, several ranks) is the same.
"""

import multiprocessing
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pipeline.stages", "pipeline.cli", "pipeline.quantize.qat_stage", "trainings"])


class Forked:
    """`call(*arguments)` in a process of its own, whose exit status is what it returns; output goes to the file `log`.

    Has what the tests use of `subprocess.Popen`. `call` must be a function of a module.
    """

    def __init__(
        self, call: Callable[..., int | None], *arguments: Any, log: Path, environment: Mapping[str, str] | None = None
    ):
        self._process = _CONTEXT.Process(target=_run, args=(call, arguments, log, dict(environment or {})))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit status, the negative signal where one ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it is over; subprocess.TimeoutExpired where it is not."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self._process.kill()


def _run(call: Callable[..., int | None], arguments: tuple[Any, ...], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell's children ignore ctrl-C
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        status = call(*arguments)
    except Exception:
        traceback.print_exc()
        status = 1
    raise SystemExit(status or 0)
