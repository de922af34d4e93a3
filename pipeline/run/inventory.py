"""What there is of each run: how large it is, how old, and what is kept aside of earlier results."""

import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.artifact import read_artifact, read_manifest
from pipeline.console.known_runs import runs_in
from pipeline.run.kept import KEPT


@dataclass(frozen=True)
class Kept:
    """A result, or the interrupted work of a training, that is not the current one. `finished` is None of what is interrupted."""

    stage: str
    path: Path
    bytes: int
    finished: datetime | None
    whole: bool


@dataclass(frozen=True)
class Run:
    """A run: `stages` are complete ones, `changed` is when the latest of them, or of its files, was written."""

    name: str
    folder: Path
    stages: tuple[str, ...]
    bytes: int
    changed: datetime
    kept: tuple[Kept, ...]


def list_runs(place: Path) -> list[Run]:
    """The runs in the folder `place`, by name."""
    return [_describe(place / name) for name in runs_in(place)]


def remove_kept(kept: Kept) -> None:
    """Delete it, and the folders that it leaves empty."""
    shutil.rmtree(kept.path)
    for parent in kept.path.parents[:2]:
        if parent.name in (KEPT, kept.stage) and not any(parent.iterdir()):
            parent.rmdir()


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _describe(folder: Path) -> Run:
    kept = [_kept(place, place.parent.name) for place in sorted(folder.glob(f"{KEPT}/*/*"))]
    kept += [_kept(place, place.name.split(".")[1]) for place in sorted(folder.glob(".*.partial.*"))]
    stages = [found for found in sorted(folder.iterdir()) if found.is_dir() and read_artifact(found) is not None]
    written = [found.stat().st_mtime for found in (folder, *stages)]
    return Run(
        folder.name, folder, tuple(found.name for found in stages), size_of(folder),
        datetime.fromtimestamp(max(written), timezone.utc), tuple(kept),
    )  # fmt: skip


def _kept(place: Path, stage: str) -> Kept:
    manifest: dict[str, Any] = read_manifest(place) or {}
    finished = manifest.get("finished")
    return Kept(
        stage, place, size_of(place), datetime.fromisoformat(finished) if finished else None,
        read_artifact(place) is not None or not manifest,
    )  # fmt: skip
