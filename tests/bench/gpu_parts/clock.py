"""Time on a device: CUDA's events on a GPU, the machine's clock on a CPU; variants take turns, and TF32 is set for each."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Call = Callable[[], object]
MOST_CALLS = 200
WARM_UP_CALLS, WARM_UP_SECONDS = 3, 0.3


@dataclass(frozen=True)
class Turn:
    """What is timed, and whether products of float32 may round their operands to TF32 in it."""

    call: Call
    tf32: bool

    def begin(self) -> None:
        """Set the switches, for this variant alone."""
        allow_tf32(self.tf32)


def allow_tf32(allowed: bool) -> None:
    """Of matrix products and of convolutions. Convolutions have it on by default, which would make FP32 no FP32."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def wait(device: torch.device) -> None:
    """Until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Call, calls: int, device: torch.device) -> float:
    """Seconds of one call, the mean of `calls` without a pause between."""
    wait(device)
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e3 / calls


def warm_up(call: Call, device: torch.device) -> None:
    """Compilation, cuDNN's trials of algorithms and rising clocks are over after this."""
    started = time.perf_counter()
    for _ in range(WARM_UP_CALLS):
        call()
    wait(device)
    while device.type == "cuda" and time.perf_counter() - started < WARM_UP_SECONDS:
        call()
        wait(device)


def take_turns(
    turns: Mapping[str, Turn], rounds: int, turn_seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of a call in each round. A turn is one call that is not timed, then as many as `turn_seconds` hold."""
    calls: dict[str, int] = {}
    for name, turn in turns.items():
        turn.begin()
        warm_up(turn.call, device)
        calls[name] = int(np.clip(turn_seconds / seconds_of(turn.call, 1, device), 1, MOST_CALLS))
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for index in range(rounds):
        for name in list(turns)[:: 1 if index % 2 else -1]:
            turns[name].begin()
            turns[name].call()
            seconds[name].append(seconds_of(turns[name].call, calls[name], device))
    return seconds


def timing(seconds: list[float], baseline: list[float] | None, batch: int) -> dict[str, Any]:
    """Medians and quartiles: milliseconds, images/s, and how many times as fast as `baseline` in the same rounds."""
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    speed = None
    if baseline is not None:
        speed = [round(float(value), 3) for value in np.percentile(np.divide(baseline, seconds), (25, 50, 75))]
    return {
        "ms": round(1e3 * float(middle), 4), "ms_quartiles": [round(1e3 * float(low), 4), round(1e3 * float(high), 4)],
        "images_per_s": round(batch / float(middle), 2), "speed": speed,
    }  # fmt: skip
