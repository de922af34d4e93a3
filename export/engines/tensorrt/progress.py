"""How far a build is, from TensorRT's own monitor, and a way out: ctrl-C stops the builder instead of killing it."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any


def _nothing(_: float, __: str) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Progress:
    """Who hears of a build: `step(fraction, phase)` with 0 to 1 and TensorRT's name of what it does, `say(line)`."""

    step: Callable[[float, str], None] = _nothing
    say: Callable[[str], None] = print


@dataclass
class Phases:
    """The phases that are open, the outermost first: each is one step of the one around it. For any thread."""

    open: list[tuple[str, int, int]] = field(default_factory=list)  # name, steps done, steps in all
    highest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, name: str, steps: int) -> None:
        with self.lock:
            self.open.append((name, 0, max(steps, 1)))

    def step(self, name: str, step: int) -> None:
        with self.lock:
            self.open = [(known, step + 1 if known == name else done, steps) for known, done, steps in self.open]

    def finish(self, name: str) -> None:
        with self.lock:
            for index in reversed(range(len(self.open))):
                if self.open[index][0] == name:
                    del self.open[index:]
                    return

    def fraction(self) -> float:
        """Of the outermost phase, 0 to 1, with what the phases inside have done of its current step.

        It never falls, although TensorRT opens phases inside one whose steps are all done, and leaves others early.
        """
        with self.lock:
            share, done = 1.0, 0.0
            for _, finished, steps in self.open:
                done += share * min(finished, steps) / steps
                share /= steps
            self.highest = max(self.highest, min(done, 1.0))
            return self.highest


class Stop:
    """Whether somebody pressed ctrl-C: known at once, although Python runs no handler while TensorRT has the CPU."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Catches ctrl-C inside the `with`, where this thread may: Python lets only the main thread do so."""
        try:
            if threading.current_thread() is not threading.main_thread():
                yield self
                return
            before, wakeup = signal.signal(signal.SIGINT, self._handle), signal.set_wakeup_fd(self._writer)
            try:
                yield self
            finally:
                signal.set_wakeup_fd(wakeup)
                signal.signal(signal.SIGINT, before)
        finally:
            os.close(self._reader)
            os.close(self._writer)

    def _handle(self, _: int, __: FrameType | None) -> None:
        """In place of KeyboardInterrupt, which must not be raised in a callback that C++ made."""
        self._asked = True

    def ask(self) -> None:
        """As ctrl-C does."""
        self._asked = True

    def asked(self) -> bool:
        if not self._asked:
            with contextlib.suppress(BlockingIOError):  # the pipe holds nothing: no signal came
                self._asked = signal.SIGINT in os.read(self._reader, 4096)
        return self._asked


def create_monitor(trt: Any, progress: Progress, stop: Stop, failures: list[BaseException]) -> Any:
    """A monitor for `config.progress_monitor`. What `progress.step` raises ends the build and is kept in `failures`."""
    phases = Phases()

    def show(phase: str) -> None:
        try:
            if not failures:
                progress.step(phases.fraction(), phase)
        except BaseException as error:  # kept, not passed through C++: `finish_build` raises it
            failures.append(error)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, num_steps)
            show(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            show(phase_name)
            return not (stop.asked() or failures)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
