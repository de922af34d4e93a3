"""Progress of a long step: a bar on a terminal, otherwise a line every 15 seconds."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol, TypeVar

from export.engines.tensorrt.progress import Progress

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
_LOG_SECONDS = 15.0


class Countable(Protocol[Item_co]):
    """What can be gone through and says how much it is: a sequence, or batches of a loader."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Item_co]: ...


def track(items: Countable[Item], title: str) -> Iterator[Item]:
    """Yield `items`, showing how many are done; under torchrun only rank 0 prints."""
    if int(os.environ.get("RANK", 0)) > 0:
        yield from items
        return
    if sys.stdout.isatty() and find_spec("rich") is not None:  # a device has none
        from rich.progress import track as rich_track

        yield from rich_track(items, description=f"           {title}", transient=True)
        return
    said = time.monotonic()
    for index, item in enumerate(items):
        if time.monotonic() - said > _LOG_SECONDS:
            print(f"           {title}: {index} of {len(items)}", flush=True)
            said = time.monotonic()
        yield item


@contextmanager
def show_build(title: str) -> Iterator[Progress]:
    """Show the progress that a backend's builder reports; the bar appears at its first report, so not every backend has one."""
    if not sys.stdout.isatty() or find_spec("rich") is None:
        yield Progress(_Log(title).step, _say)
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), transient=True
    )
    task = bars.add_task(f"           {title}", total=1.0, visible=False)

    def step(fraction: float, phase: str) -> None:
        bars.update(task, completed=fraction, description=f"           {title}: {phase.lower()}", visible=True)

    with bars:
        yield Progress(step, _say)


class _Log:
    """A line every `_LOG_SECONDS`, for output that is not a terminal."""

    def __init__(self, title: str) -> None:
        self.title, self.said = title, time.monotonic()

    def step(self, fraction: float, phase: str) -> None:
        if time.monotonic() - self.said > _LOG_SECONDS:
            print(f"           {self.title}: {100 * fraction:.0f} %, {phase.lower()}", flush=True)
            self.said = time.monotonic()


def _say(line: str) -> None:
    print(f"           {line}", flush=True)
