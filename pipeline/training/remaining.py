"""When a training will be done, from what its first updates and its first evaluation have taken."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from pipeline.console.figures import counted, duration
from pipeline.parts.train import TrainPart

_LEAST_UPDATES, _LEAST_SECONDS = 20, 30.0  # both, or an epoch, before anything is said
_CHANGE = 0.2  # of the time that is left: a change below it is not said
_SHORT = 30.0  # what is over so soon needs no estimate


class Remaining:
    """Hears of every update and epoch of this process, and answers with a line for the console where it has one.

    It speaks after the first updates, and once more, where that has changed the answer, at the end of the first epoch by which
    there were enough of them and an evaluation. The first update of an epoch is left out: kernels are chosen then, and
    workers start.
    """

    def __init__(
        self, part: TrainPart, updates: int, done: int,
        clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = datetime.now,
    ):  # fmt: skip
        """`updates` are in an epoch; `done` of them, in all epochs, were made before."""
        self._part, self._updates, self._before = part, updates, done
        self._clock, self._now = clock, now
        self._begun = clock()
        self._first: tuple[int, float] | None = None  # updates done and when, after the first one of this epoch
        self._last = (done, self._begun)
        self._timed, self._seconds = 0, 0.0  # updates of earlier epochs, and what they took
        self._evaluation: float | None = None
        self._end: float | None = None  # what was said, as a time of the clock
        self._settled = False

    def after_update(self, done: int) -> str | None:
        """Call it after each update, with how many are done in all epochs."""
        self._last = (done, self._clock())
        self._first = self._first or self._last
        if self._end is not None or done % self._updates == 0:  # at the end of an epoch more is known in a moment
            return None
        return self._say(self._last[1]) if self._enough() else None

    def after_epoch(self, *, evaluated: bool) -> str | None:
        """Call it after each epoch and its evaluation, if it had one."""
        now = self._clock()
        if evaluated:
            self._evaluation = now - self._last[1]
        if self._first is not None:
            self._timed += self._last[0] - self._first[0]
            self._seconds += self._last[1] - self._first[1]
        self._first = None
        known = self._evaluation is not None and self._enough()
        if self._settled or not (known or self._end is None):
            return None
        self._settled = known
        return self._say(now)

    def _enough(self) -> bool:
        done, last = self._last
        return done - self._before >= _LEAST_UPDATES and last - self._begun >= _LEAST_SECONDS

    def _say(self, now: float) -> str | None:
        """The line, unless it would say nearly the same again, or that of a moment."""
        left = self._left()
        changed = self._end is None or abs(now + left - self._end) > _CHANGE * (self._end - now)
        if left < _SHORT or not changed:
            return None
        self._end = now + left
        today = self._now()
        end = today + timedelta(seconds=left)
        form = "%H:%M" if end.date() == today.date() else "%Y-%m-%d %H:%M"
        return f"about {duration(left)} for {self._epochs()} (done at {end.strftime(form)})"

    def _epochs(self) -> str:
        left = self._part.epochs - self._last[0] // self._updates
        if self._before == 0 and left == self._part.epochs:
            return counted(left, "epoch")
        return f"the {counted(left, 'epoch')} left" if left > 1 else "the last epoch"

    def _left(self) -> float:
        """Seconds from now to the end; without evaluations while none was timed."""
        done, last = self._last
        timed, seconds = self._timed, self._seconds
        if self._first is not None:
            timed, seconds = timed + done - self._first[0], seconds + last - self._first[1]
        if timed == 0:  # an epoch of one update
            timed, seconds = max(done - self._before, 1), last - self._begun
        evaluations = sum(map(self._part.evaluates_after, range(done // self._updates, self._part.epochs)))
        rest = self._part.epochs * self._updates - done
        return rest * seconds / timed + evaluations * (self._evaluation or 0.0)
