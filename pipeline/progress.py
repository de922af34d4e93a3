"""Progress of a long step: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Sequence[Item], title: str) -> Iterator[Item]:
    """Yield `items`, showing how far along they are."""
    if sys.stdout.isatty() and find_spec("rich") is not None:  # a device has none
        from rich.progress import track as rich_track

        yield from rich_track(items, description=f"           {title}", transient=True)
        return
    said = time.monotonic()
    for index, item in enumerate(items):
        if time.monotonic() - said > 15:
            print(f"           {title}: {index} of {len(items)}", flush=True)
            said = time.monotonic()
        yield item
