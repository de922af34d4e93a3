"""One command for several devices: each in a thread of its own, so that one that fails does not stop the others."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from calib.errors import InputError
from pipeline.console.exit_status import DONE, FAILED, GATE_FAILED, WRONG_INPUT
from pipeline.devices.device_file import Device
from pipeline.devices.messages import DeviceFailed, Lost, plain, unreachable
from pipeline.devices.ssh import Connection, Processes

Answer = TypeVar("Answer")
_WORST_FIRST = (FAILED, WRONG_INPUT, GATE_FAILED, DONE)
_LOOK_SECONDS = 0.5  # ctrl-C is noticed so often


@dataclass(frozen=True)
class Outcome(Generic[Answer]):
    """What became of a device's part: an answer, or an error."""

    device: Device
    answer: Answer | None
    error: InputError | None

    def status(self, of_answer: int = DONE) -> int:
        """The exit status of this part."""
        if self.error is None:
            return of_answer
        return FAILED if isinstance(self.error, DeviceFailed) else WRONG_INPUT


def on_each(
    devices: Sequence[Device],
    call: Callable[[Connection], Answer],
    tell: Callable[[Device, InputError], None] | None = None,
) -> list[Outcome[Answer]]:
    """`call` for all devices at once, in their order; `tell` is called as soon as one fails.

    Ctrl-C ends our connections and comes through; what runs there goes on.
    """
    processes = Processes()

    def part(device: Device) -> Outcome[Answer]:
        outcome = _outcome(Connection(device, processes), call)
        if outcome.error is not None and tell is not None and not processes.closed:
            tell(device, outcome.error)
        return outcome

    with ThreadPoolExecutor(max_workers=len(devices)) as pool:
        futures = [pool.submit(part, device) for device in devices]
        try:
            while wait(futures, timeout=_LOOK_SECONDS).not_done:
                pass
        except BaseException:
            processes.close()
            raise
    return [future.result() for future in futures]


def _outcome(connection: Connection, call: Callable[[Connection], Answer]) -> Outcome[Answer]:
    device = connection.device
    try:
        return Outcome(device, call(connection), None)
    except InputError as error:
        return Outcome(device, None, error)
    except Lost as error:
        return Outcome(device, None, unreachable(device, str(error)))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError) as error:
        if os.environ.get("T2T_EDGE_TRACEBACK"):
            raise
        return Outcome(device, None, _senseless(device, error))


def _senseless(device: Device, error: Exception) -> DeviceFailed:
    """For answers of another form than ours, and for our own mistakes: the other devices go on."""
    return DeviceFailed(
        f"what {device.name} answers makes no sense", got=f"{type(error).__name__}: {plain(str(error))}",
        allowed="answers of our own program there",
        next_step="T2T_EDGE_TRACEBACK=1 with the same command shows where; please report it",
    )  # fmt: skip


def worst(statuses: Sequence[int]) -> int:
    """The exit status of a command for several devices: failed, then wrong use, then the gate, then done."""
    return next(status for status in _WORST_FIRST if status in statuses)


class Lines:
    """Prints lines of several devices, each whole and behind its device's name."""

    def __init__(self, devices: Sequence[Device]):
        self._width = max(len(device.name) for device in devices)
        self._lock = threading.Lock()

    def say(self, name: str, text: str) -> None:
        """Lines of a device."""
        with self._lock:
            for line in plain(text).splitlines() or [""]:
                print(f"{name:<{self._width}} | {line}", flush=True)

    def error(self, device: Device, error: InputError) -> None:
        """The message of a device that failed."""
        self.say(device.name, f"error: {error}")
