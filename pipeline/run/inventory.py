"""What there is of each run: how large it is, how old, and what is kept aside of earlier results."""

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.artifact import read_artifact, read_manifest, size_of_file
from pipeline.console.known_runs import runs_in
from pipeline.run.kept import KEPT, remove


@dataclass(frozen=True)
class Kept:
    """A result, or the work of a training that was `interrupted`, that is not the current one. `finished` is None where it is
    not, or where nothing says when."""

    stage: str
    path: Path
    bytes: int
    finished: datetime | None
    whole: bool
    interrupted: bool


@dataclass(frozen=True)
class Run:
    """A run: `stages` are complete ones, `changed` is when the latest of them, or of its files, was written. `problem` says why
    nothing else is known of it."""

    name: str
    folder: Path
    stages: tuple[str, ...]
    bytes: int
    changed: datetime
    kept: tuple[Kept, ...]
    problem: str | None = None


def list_runs(place: Path) -> list[Run]:
    """The runs in the folder `place`, by name."""
    return [_describe_or_say(place / name) for name in runs_in(place)]


def kept_in(folder: Path) -> tuple[Kept, ...]:
    """What the run in `folder` keeps aside."""
    results = [_kept(place, place.parent.name) for place in sorted(folder.glob(f"{KEPT}/*/*")) if place.is_dir()]
    works = [place for place in sorted(folder.glob(".*.partial.*")) if place.is_dir()]
    return (*results, *(_kept(place, place.name.split(".")[1], interrupted=True) for place in works))


def remove_kept(kept: Kept) -> None:
    """Delete it, and the folders that it leaves empty."""
    remove(kept.path)
    for parent in kept.path.parents[:2]:
        if parent.name in (KEPT, kept.stage) and not any(parent.iterdir()):
            parent.rmdir()


def size_of(folder: Path) -> int:
    """Bytes of all files below, as far as they can be seen; a command may be moving them."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(size_of_file(path) or 0 for path in paths if not path.is_symlink())


def _describe_or_say(folder: Path) -> Run:
    """One run that cannot be read, such as another user's, does not hide the others."""
    try:
        return _describe(folder)
    except OSError as error:
        changed = datetime.fromtimestamp(folder.stat().st_mtime, timezone.utc)
        return Run(folder.name, folder, (), size_of(folder), changed, (), f"{error.filename}: {error.strerror}")


def _describe(folder: Path) -> Run:
    stages = [found for found in sorted(folder.iterdir()) if read_artifact(found) is not None]
    written = [folder.stat().st_mtime]
    for found in stages:
        with suppress(FileNotFoundError):  # moved by a command that writes the run
            written.append(found.stat().st_mtime)
    changed = datetime.fromtimestamp(max(written), timezone.utc)
    return Run(folder.name, folder, tuple(found.name for found in stages), size_of(folder), changed, kept_in(folder))


def _kept(place: Path, stage: str, *, interrupted: bool = False) -> Kept:
    manifest: dict[str, Any] = read_manifest(place) or {}
    finished = manifest.get("finished")
    return Kept(
        stage, place, size_of(place), datetime.fromisoformat(finished) if finished else None,
        interrupted or read_artifact(place) is not None, interrupted,
    )  # fmt: skip
