"""Calls that are not timed, before those that are.

Threads of ONNX Runtime spin for 35 ms after their last call, in which an engine that runs next on the same cores is up to twice
as slow: its turn has to begin later than that.
"""

import time
from collections.abc import Callable

_TURN_CALLS = 3
_TURN_MS = 50


def warm_up(call: Callable[[], object], calls: int, milliseconds: float) -> None:
    """Call `calls` times, and for at least `milliseconds`: a GPU needs that time to reach its clocks."""
    end = time.perf_counter() + milliseconds * 1e-3
    for _ in range(calls):
        call()
    while time.perf_counter() < end:
        call()


def begin_turn(call: Callable[[], object]) -> None:
    """Call until threads of the engine whose turn it was before are at rest."""
    warm_up(call, _TURN_CALLS, _TURN_MS)
