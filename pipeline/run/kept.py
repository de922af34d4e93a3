"""Earlier results of a stage: put aside under their key when another takes their place, and taken back when it returns.

A result moves by renaming alone: a kill, or a full disk, between two moves leaves both whole.
"""

import os
import shutil
from itertools import count
from pathlib import Path

from calib.errors import InputError
from pipeline.artifact import Artifact, read_artifact, read_manifest

KEPT = ".kept"
_SHOWN_OF_KEY = 16


def kept_place(folder: Path, key: str) -> Path:
    """Where the stage in `folder` keeps the result of `key`: `runs/demo/.kept/train/0123456789abcdef`."""
    return folder.parent / KEPT / folder.name / key[:_SHOWN_OF_KEY]


def find_kept(folder: Path, key: str) -> Artifact | None:
    """The whole result of `key` that was put aside."""
    found = read_artifact(kept_place(folder, key))
    return found if found is not None and found.key == key else None


def place_aside(folder: Path) -> Path:
    """Where what is in `folder` is put aside: under its key, or beside that where it is damaged, each time elsewhere.

    A damaged result is kept too, and never taken back: who changed a checkpoint by hand may want it.
    """
    manifest = read_manifest(folder) or {}
    place = kept_place(folder, str(manifest.get("key") or "unknown"))
    return place if read_artifact(folder) is not None else _beside(place)


def _beside(place: Path) -> Path:
    names = (f"{place.name}.damaged{number or ''}" for number in count())
    return next(found for name in names if not os.path.lexists(found := place.with_name(name)))


def put_aside(folder: Path) -> Path | None:
    """Move what is in `folder` to `place_aside`; returns that place. None where there is nothing."""
    if not folder.exists():
        return None
    place = place_aside(folder)
    if read_artifact(place) is not None:
        remove(place)  # the same result
    elif os.path.lexists(place):
        os.rename(place, _beside(place))
    place.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():  # to another disk: a relative one would lead nowhere from there
        place.symlink_to(folder.resolve())
        folder.unlink()
    else:
        os.rename(folder, place)
    return place


def remove(place: Path) -> None:
    """Delete a kept result; of one that lies elsewhere, the link to it."""
    if place.is_symlink():
        place.unlink()
    else:
        shutil.rmtree(place)


def refuse_lost(folder: Path) -> None:
    """InputError where a stage's folder is a link to a place that is not there, such as a disk that is not mounted: what is
    finished there must not be made again."""
    if folder.is_symlink() and not folder.exists():
        raise InputError(
            "a result lies in a place that is not there", got=f"{folder} is a link to {folder.readlink()}",
            allowed="a folder, or a link to one", next_step=f"mount that disk; or, to make it again: rm '{folder}'",
        )  # fmt: skip


def put_in_place(finished: Path, folder: Path) -> Artifact:
    """Move a finished work folder, or a kept result, to `folder`; what was there is put aside."""
    put_aside(folder)
    os.rename(finished, folder)
    artifact = read_artifact(folder)
    assert artifact is not None
    return artifact
