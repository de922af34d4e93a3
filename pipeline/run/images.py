"""Which images a run's stages were made from, noted in the run, so that it can be said how many have changed since."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.content import CONTENT, Contents

_FOLDER = ".images"


def note_images(run_folder: Path, contents: Contents) -> None:
    """Keep names and contents as hashes, 24 bytes an image; nothing where they are there already. What cannot be written is left
    out: it only words later messages, and a training that has just ended is worth more."""
    place = _place(run_folder, contents.digest)
    if not contents.names or place.is_file():
        return
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        with partial.open("wb") as file:
            np.save(file, contents.table, allow_pickle=False)
        os.replace(partial, place)


def changed_images(run_folder: Path, before: str, now: Contents) -> str:
    """`1 of 4,000 changed, 2 new, 3 gone`; "" where it is not known what there was `before`, by its digest."""
    table = _read(_place(run_folder, before)) if before else None
    if table is None:
        return ""
    both = np.isin(now.table["name"], table["name"])
    order = np.argsort(table["name"], kind="stable")
    at = order[np.searchsorted(table["name"], now.table["name"][both], sorter=order)]
    changed = int((table["content"][at] != now.table["content"][both]).any(axis=1).sum())
    new, gone = int((~both).sum()), len(table) - int(both.sum())
    counts = [(changed, f"of {len(table):,} changed"), (new, "new"), (gone, "gone")]
    return ", ".join(f"{count:,} {what}" for count, what in counts if count) or "in another order"


def _place(run_folder: Path, digest: str) -> Path:
    return run_folder / _FOLDER / f"{digest[:16]}.npy"


def _read(place: Path) -> NDArray[Any] | None:
    try:
        table: NDArray[Any] = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.dtype == CONTENT else None
