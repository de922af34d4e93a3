"""Progress of a long step: a bar on a terminal, a line now and then in a log."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Sequence[Item], title: str) -> Iterator[Item]:
    """Yield `items`, showing how far along they are; under torchrun one process speaks for all."""
    if int(os.environ.get("RANK", 0)) > 0:
        yield from items
        return
    if sys.stdout.isatty():
        from rich.progress import track as rich_track

        yield from rich_track(items, description=f"           {title}", transient=True)
        return
    said = time.monotonic()
    for index, item in enumerate(items):
        if time.monotonic() - said > 15:
            print(f"           {title}: {index} of {len(items)}", flush=True)
            said = time.monotonic()
        yield item
