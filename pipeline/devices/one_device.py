"""A run on one device, from the bundle to checked results. Every attempt begins with what is there, so that it may be cut off
anywhere: by a lost connection, which is made again, or by the end of this program, after which the same command attaches again.
"""

import getpass
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.console.exit_status import DONE, GATE_FAILED
from pipeline.console.figures import counted, megabytes
from pipeline.device.contents import Bundle
from pipeline.devices.check import check_results, refused
from pipeline.devices.device_file import Device
from pipeline.devices.kept import Kept, take_files
from pipeline.devices.messages import (
    Lost,
    busy,
    clock_skew,
    failed_run,
    no_backend,
    still_lost,
    unreachable,
    without_tensorrt,
)
from pipeline.devices.remote.program import BOOT, program
from pipeline.devices.remote.session import RUNNING
from pipeline.devices.send import check_room, send, what_is_missing
from pipeline.devices.ssh import Connection

STEPS = ("build", "evaluate", "benchmark", "report")
MINUTES = {"send": 60.0, "build": 240.0, "evaluate": 120.0, "benchmark": 120.0, "report": 10.0, "fetch": 60.0}
_SKEW_SECONDS = 60.0
_SILENT_SECONDS = 30.0  # the device gives a sign of life every few seconds
_WAITS = (0.3, 1.0, 3.0, 10.0)  # seconds before the connection is made again; the last one from then on
_FRUITLESS = 100  # attempts that reach the device and bring nothing new
_NO_TENSORRT = "tensorrt: "  # as `./t2t build` says why it takes another backend
_NO_BACKEND = ("no engine of this bundle can be built here", "a package is missing")


@dataclass(frozen=True)
class Work:
    """What is asked of every device."""

    bundle: Bundle
    kept: Kept
    run: str
    arguments: Mapping[str, tuple[str, ...]]  # by step
    minutes: Mapping[str, float]
    patience: float  # seconds without a connection
    again: str  # the command, for messages
    say: Callable[[str, str], None]  # of a device, a line


@dataclass
class OneDevice:
    """A device's part of the command; `finish` returns the exit status of its run."""

    connection: Connection
    work: Work
    begun: bool = False  # whether anything runs there, as far as is known
    _session: str = ""
    _at: int = 0  # how much of the session's log has been shown
    _said: set[str] = field(default_factory=set)
    _heard: float = 0.0  # when the device answered last
    _reached: bool = False  # whether it did in this attempt

    @property
    def device(self) -> Device:
        return self.connection.device

    def finish(self) -> int:
        """Run, or attach to what runs, and keep the results. InputError and DeviceFailed, with the message, where it fails."""
        attempt, fruitless = 0, 0
        while True:
            before, self._reached = self._at, False
            try:
                return self._attempt()
            except Lost as lost:
                if self.connection.processes.closed:
                    raise
                if not self._heard:
                    raise unreachable(self.device, str(lost)) from lost
                attempt = 0 if self._reached else attempt + 1
                if self._reached:  # it is gone since now, however long ago an answer came
                    self._heard = time.monotonic()
                fruitless = 0 if self._at > before else fruitless + self._reached
                silent = time.monotonic() - self._heard
                if silent > self.work.patience or fruitless > _FRUITLESS:
                    raise still_lost(self.device, str(lost), silent, self.work.again) from lost
                if not attempt:
                    self._say(f"connection lost ({lost}); what runs there goes on, connecting again")
                self.connection.processes.pause(_WAITS[min(attempt, len(_WAITS) - 1)])

    def _attempt(self) -> int:
        place = self.work.kept.place(self.device, self.work.run)
        state = self._state(place)
        if state is None:
            state = self._start(place)
        self.begun = True
        state = self._follow(place, state)
        return self._end(place, state)

    def _say(self, text: str) -> None:
        self.work.say(self.device.name, text)

    def _hear(self) -> None:
        self._heard, self._reached = time.monotonic(), True

    def _once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            if text:
                self._say(text)

    def _probe(self, place: str) -> dict[str, Any]:
        sent = now()
        probe = self.connection.ask("probe", {"place": place})
        self._hear()
        skew = probe["time"] - (sent + now()) / 2
        if abs(skew) > _SKEW_SECONDS:
            self._once("skew", f"warning: {clock_skew(self.device, skew)}")
        return probe

    def _state(self, place: str) -> dict[str, Any] | None:
        """The state of a run of this bundle that is under way, or that has ended without having been fetched; None for none.

        DeviceFailed where the device is busy with something else.
        """
        probe = self._probe(place)
        state, holder = probe["state"], probe["holder"]
        ours = state is not None and state["key"] == self.work.bundle.key and state["arguments"] == self._arguments()
        if ours and (state["phase"] == RUNNING or not state["collected"]):
            self._once(
                "attached", "" if state["id"] == self._session else f"attached to the run of {_day(state['started'])}"
            )
            return dict(state)
        if holder is not None:
            raise busy(self.device, holder, self.work.run, self.work.kept.token(), self.work.again)
        return None

    def _arguments(self) -> dict[str, list[str]]:
        return {step: list(self.work.arguments.get(step, ())) for step in STEPS}

    def _start(self, place: str) -> dict[str, Any]:
        """Send the bundle and start its steps."""
        bundle, minutes = self.work.bundle, self.work.minutes
        probe = self._probe(place)
        sending = what_is_missing(self.connection, place, bundle.folder, dry=False)
        check_room(self.device, probe, bundle.folder, sending)
        if sending.names:
            self._say(f"sending {counted(len(sending.names), 'file')}, {megabytes(sending.size)} MB")
        way = send(self.connection, place, bundle.folder, sending, probe, 60 * minutes["send"])
        self._once("sent", f"the bundle is there, by {way}" if sending.names else "the bundle is there already")
        token, session = self.work.kept.token(), secrets.token_hex(8)
        state = {"id": session, "token": token, "key": bundle.key, "arguments": self._arguments()}
        note = note_of(self.work.run, token)
        steps = [{"name": step, "arguments": self._arguments()[step], "seconds": 60 * minutes[step]} for step in STEPS]
        request = {"place": place, "state": state, "note": note, "steps": steps, "boot": BOOT, "program": program()}
        answer = self.connection.ask("start", request)
        if "busy" in answer:
            raise busy(self.device, answer["busy"], self.work.run, token, self.work.again)
        self._say("started: it goes on there whatever becomes of this connection")
        return state | {"phase": RUNNING}

    def _follow(self, place: str, state: dict[str, Any]) -> dict[str, Any]:
        """Show the log as it grows; returns the state at the end."""
        if state["id"] != self._session:
            self._session, self._at = state["id"], 0
        for answer in self.connection.stream("follow", {"place": place, "at": self._at}, seconds=_SILENT_SECONDS):
            self._hear()
            if "text" in answer:
                for line in answer["text"].splitlines():
                    self._say(line)
                    if line.startswith(_NO_TENSORRT):
                        reason = line.removeprefix(_NO_TENSORRT)
                        self._once("tensorrt", f"warning: {without_tensorrt(self.device, reason)}")
                self._at = answer["at"]
            elif "state" in answer:
                return dict(answer["state"] or {})
        raise Lost("the connection ended")

    def _end(self, place: str, state: dict[str, Any]) -> int:
        """Fetch, check and keep what a run that is over has made."""
        if not state:
            raise Lost("the session is gone")
        log = self.connection.ask("log", {"place": place})["text"] or ""
        if state["status"] not in (DONE, GATE_FAILED) or state["problem"] is not None:
            path = self.work.kept.keep_log(self.device.name, log)
            self.connection.ask("collected", {"place": place, "id": state["id"]})
            raise self._failed(state, path)
        fetched = self._fetch(place, state)
        try:
            report = check_results(self.device.name, fetched, self.work.bundle, self.work.again)
            about = {
                "schema": 1, "device": self.device.name, "address": self.device.address, "bundle": self.work.bundle.key,
                "status": state["status"], "fetched": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "results": state["results"],
            }  # fmt: skip
            self.work.kept.keep(self.device.name, fetched, about, log)
        finally:
            shutil.rmtree(fetched, ignore_errors=True)
            self.connection.ask("collected", {"place": place, "id": state["id"]})
        best = (report["recommended"] or {}).get("name", "none")
        self._say(f"checked and kept: {self.work.kept.results(self.device.name)}; recommended there: {best}")
        return int(state["status"])

    def _fetch(self, place: str, state: dict[str, Any]) -> Path:
        fetched = self.work.kept.partial(self.device.name)
        try:
            self.connection.fetch(
                {"place": place}, lambda answer, stream: take_files(fetched, answer["files"], stream, state["results"]),
                60 * self.work.minutes["fetch"],
            )  # fmt: skip
        except ValueError as error:
            shutil.rmtree(fetched, ignore_errors=True)
            self.connection.ask("collected", {"place": place, "id": state["id"]})
            raise refused(self.device.name, str(error), self.work.again) from error
        return fetched

    def _failed(self, state: dict[str, Any], log: Path) -> Exception:
        problem = state["problem"] or {"kind": "failed", "step": state.get("step")}
        text = problem.get("text", "")
        if problem["kind"] == "failed" and any(words in text for words in _NO_BACKEND):
            return no_backend(self.device, text, self.work.again)
        return failed_run(self.device, problem, state["status"], self.work.again, str(log))


def now() -> float:
    """This machine's clock, in seconds since 1970."""
    return time.time()


def note_of(run: str, token: str) -> dict[str, Any]:
    """What the device's lock says of us, for other people."""
    since = _day(now())
    return {"owner": f"{getpass.getuser()}@{socket.gethostname()}", "run": run, "since": since, "token": token}


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
