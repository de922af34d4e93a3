"""The work folder that a stage fills: begun afresh, or gone on with where an earlier run was interrupted."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.run.stage import Stage
from pipeline.training.resume import LAST

_KEY = ".key"


def work_place(folder: Path) -> Path:
    """Where the stage whose result goes to `folder` works."""
    return folder.with_name(f".{folder.name}.partial")


def interrupted(stage: Stage, folder: Path) -> bool:
    """Whether an earlier run of the stage left work that it goes on from, if nothing has changed since."""
    return stage.resumes and _read_key(work_place(folder)) is not None


def find_work(stage: Stage, folder: Path, key: str) -> Path | None:
    """The work folder of an interrupted run with this key, in its place or set aside; None where there is none."""
    for path in (work_place(folder), _aside(folder, key)):
        if stage.resumes and _read_key(path) == key:
            return path
    return None


def prepare_work(stage: Stage, folder: Path, key: str, say: Callable[[str], None]) -> Path:
    """An empty work folder, or the one an interrupted run of the same key left, where the stage can go on from it.

    A training that another key has interrupted is days of work: it is set aside, and goes on when its key comes back.
    """
    place, work = work_place(folder), find_work(stage, folder, key)
    if work == place:
        return place
    if (place / LAST).is_file():
        kept = _free(_aside(folder, _read_key(place) or "unknown"))
        os.rename(place, kept)
        say(f"{stage.name:>9}: an interrupted training with other values, images or inputs is kept as {kept}")
        say(f"{'':>9}  (with what it was begun with it goes on; if it is not needed: rm -r '{kept}')")
    shutil.rmtree(place, ignore_errors=True)
    if work is not None:
        os.rename(work, place)
        say(f"{stage.name:>9}: goes on with the interrupted training that was kept as {work}")
        return place
    place.mkdir(parents=True)
    (place / _KEY).write_text(key, encoding="utf-8")
    return place


def forget_key(folder: Path) -> None:
    """Once a result is in its place, its manifest says which key it has."""
    (folder / _KEY).unlink(missing_ok=True)


def _aside(folder: Path, key: str) -> Path:
    """Where the interrupted work of `key` is kept while another's has its place."""
    place = work_place(folder)
    return place.with_name(f"{place.name}.{key[:8]}")


def _free(place: Path) -> Path:
    """`place`, or the first place beside it where nothing is: two works without a key have the same."""
    names = (place, *(place.with_name(f"{place.name}.{number}") for number in range(1, 1000)))
    return next(found for found in names if not found.exists())


def _read_key(work: Path) -> str | None:
    return (work / _KEY).read_text(encoding="utf-8") if (work / _KEY).is_file() else None
