"""Questions to a device through the system's OpenSSH: the user's keys, agent, configuration and jump hosts, and nothing besides.

An unknown or changed host key is never accepted. What is sent to the remote shell is fixed text: paths and names travel on stdin.
"""

import errno
import json
import os
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from calib.errors import InputError
from pipeline.devices.device_file import Device
from pipeline.devices.messages import DeviceFailed, Lost, disk_full, plain, refusal
from pipeline.devices.remote.program import BOOT, message

MARK = b"\x1et2t-edge "
CONNECT_SECONDS = 10
OPTIONS = (
    "-T", "-x", "-a", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no",
    "-o", "ClearAllForwardings=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=4", "-o", "LogLevel=ERROR",
)  # fmt: skip
_ANSWER_SECONDS = 60.0
Writer = Callable[[IO[bytes]], None]
Answer = dict[str, Any]


@dataclass
class Processes:
    """The ssh and rsync processes that run, so that ctrl-C can end them all; after `close` none is started."""

    _running: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)

    @property
    def closed(self) -> bool:
        """Whether all was ended."""
        return self._closed.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, but not after the end."""
        self._closed.wait(seconds)

    @contextmanager
    def running(self, command: list[str], stdin: int, stderr: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
        """A process in a group of its own, so that ctrl-C does not reach it before us; ended when the block is left."""
        with self._lock:
            if self.closed:
                raise Lost("interrupted")
            try:
                process = subprocess.Popen(
                    command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
                )
            except FileNotFoundError as error:
                raise InputError(
                    f"{command[0]} is missing on this machine", got=error.strerror, allowed="OpenSSH's client",
                    next_step="sudo apt-get install openssh-client",
                ) from error  # fmt: skip
            self._running.add(process)
        try:
            yield process
        finally:
            end(process)
            with self._lock:
                self._running.discard(process)

    def close(self) -> None:
        """End them all."""
        with self._lock:
            self._closed.set()
            for process in self._running:
                end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what it started, if it still runs."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class _Limit:
    """Ends a process that has said nothing for so many seconds."""

    def __init__(self, process: "subprocess.Popen[bytes]", seconds: float):
        self._process, self._seconds, self.reached = process, seconds, False
        self._timer: threading.Timer | None = None

    def restart(self) -> None:
        """It said something."""
        self.stop()
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """No limit any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self.reached = True
        end(self._process)


@dataclass(frozen=True)
class Connection:
    """How a device is asked; each question is a connection of its own, so that none has to last."""

    device: Device
    processes: Processes

    def ask(
        self, question: str, request: Answer, data: bytes | Writer = b"", seconds: float = _ANSWER_SECONDS
    ) -> Answer:
        """The one answer to a question; `data` follows the request. Lost where none came within `seconds`."""
        for answer in self.stream(question, request, data, seconds):
            return answer
        raise AssertionError("stream gives an answer or raises")

    def stream(
        self, question: str, request: Answer, data: bytes | Writer = b"", seconds: float = _ANSWER_SECONDS
    ) -> Iterator[Answer]:  # fmt: skip
        """The answers to a question as they come, with at most `seconds` between two. Lost where none comes; InputError and
        DeviceFailed where asking again would not help."""
        with self._asked(question, request, data, seconds) as (output, limit):
            count = 0
            for line in output:
                limit.restart()
                if line.startswith(MARK) and line.endswith(b"\n"):  # the connection may end within a line
                    count += 1
                    yield self._checked(json.loads(line[len(MARK) :]))
            if not count:
                raise _Silent

    def fetch(self, request: Answer, take: Callable[[Answer, IO[bytes]], None], seconds: float) -> None:
        """The question `collect`: `take` gets the answer and the stream of bytes behind it."""
        with self._asked("collect", request, b"", seconds) as (output, _):
            for line in output:
                if line.startswith(MARK) and line.endswith(b"\n"):
                    take(self._checked(json.loads(line[len(MARK) :])), output)
                    return
            raise _Silent

    @contextmanager
    def _asked(
        self, question: str, request: Answer, data: bytes | Writer, seconds: float
    ) -> Iterator[tuple[IO[bytes], _Limit]]:
        """Ask, and give the stream of answers; where it ends without an answer, the error that says why."""
        command = ["ssh", *OPTIONS, *destination(self.device), f"{python_word(self.device.python)} -c '{BOOT}'"]
        with tempfile.TemporaryFile() as words, self.processes.running(command, subprocess.PIPE, words) as process:
            assert process.stdin is not None and process.stdout is not None
            limit = _Limit(process, seconds)
            limit.restart()
            try:
                _write(process.stdin, message(request | {"ask": question}), data, limit)
                yield process.stdout, limit
            except (_Silent, BrokenPipeError) as error:
                process.wait()
                raise self._failure(process.returncode, words, limit, seconds) from error
            finally:
                limit.stop()
                process.stdout.close()
                with suppress(BrokenPipeError):
                    process.stdin.close()

    def _failure(self, status: int, words: IO[bytes], limit: _Limit, seconds: float) -> Exception:
        words.seek(0)
        text = plain(words.read().decode(errors="replace").strip())
        if limit.reached:
            return Lost(f"no answer within {seconds:g} s")
        known = refusal(self.device, status, text)
        if known is None and status == 1 and "Traceback" in text:
            return DeviceFailed(
                f"our program failed on {self.device.name}", got=text, next_step="please report it, with this text"
            )
        return known or Lost(text or f"ssh ended with {status}")

    def _checked(self, answer: Answer) -> Answer:
        error = answer.get("error")
        if error is None:
            return answer
        if error["errno"] in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(self.device, plain(error["text"]), plain(error["place"]))
        raise DeviceFailed(
            f"{self.device.name} refuses a file", got=plain(error["text"]),
            next_step=f"see who may write there: {self.device.ssh('ls', '-ld', self.device.folder)}"
        )  # fmt: skip


class _Silent(Exception):
    """The connection ended without an answer."""


def _write(stdin: IO[bytes], asked: bytes, data: bytes | Writer, limit: _Limit) -> None:
    """Write the question. Where the other end is gone the answers, which do not come, tell why."""

    class Counted:
        def write(self, piece: bytes) -> int:
            limit.restart()
            return stdin.write(piece)

    try:
        stdin.write(asked)
        if callable(data):
            data(Counted())  # type: ignore[arg-type]
        else:
            stdin.write(data)
        stdin.close()
    except BrokenPipeError:
        with suppress(BrokenPipeError):
            stdin.close()


def destination(device: Device) -> list[str]:
    """Where to, as ssh's words; the host comes last, behind `--`."""
    port = ["-p", str(device.port)] if device.port else []
    user = ["-l", device.user] if device.user else []
    return [*port, *user, "--", device.host]


def python_word(python: str) -> str:
    """The device's Python as a word of its shell; `~/` is the home."""
    below_home = python.removeprefix("~/")
    return shlex.quote(python) if below_home == python else f'"$HOME"/{shlex.quote(below_home)}'
