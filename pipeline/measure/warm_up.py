"""Calls that are not timed, before those that are.

Threads of ONNX Runtime spin for 35 ms after their last call, in which an engine that runs next on the same cores is up to twice
as slow: its turn has to begin later than that.
"""

import math
import statistics
import time
from collections.abc import Callable

_TURN_MS = 50


def warm_up(call: Callable[[], object], calls: int, milliseconds: float, most: float = math.inf) -> float:
    """Call `calls` times, and for at least `milliseconds`: a GPU needs that time to reach its clocks. Slow calls end when `most`
    milliseconds are over, after one at least. Median of the seconds of a call.
    """
    seconds: list[float] = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        spent = 1e3 * (time.perf_counter() - begin)
        if spent >= milliseconds and (len(seconds) >= calls or spent >= most):
            return statistics.median(seconds)


def begin_turn(call: Callable[[], object]) -> None:
    """Call until threads of the engine whose turn it was before are at rest."""
    warm_up(call, 1, _TURN_MS)
