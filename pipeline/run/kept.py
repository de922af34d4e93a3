"""Earlier results of a stage: put aside under their key when another takes their place, and taken back when it returns.

A result moves by renaming alone: a kill, or a full disk, between two moves leaves both whole.
"""

import os
import shutil
from pathlib import Path

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


def put_aside(folder: Path) -> Path | None:
    """Move what is in `folder` to its place among the kept; returns that place. None where there is nothing.

    A result that is damaged is kept too: who changed a checkpoint by hand may want it. It is never taken back.
    """
    manifest = read_manifest(folder)
    if not folder.exists():
        return None
    place = kept_place(folder, str((manifest or {}).get("key") or "unknown"))
    if place.exists():
        if read_artifact(folder) is None and read_artifact(place) is not None:
            shutil.rmtree(folder)  # what is kept there is whole
            return place
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.rename(folder, place)
    return place


def put_in_place(finished: Path, folder: Path) -> Artifact:
    """Move a finished work folder, or a kept result, to `folder`; what was there is put aside."""
    put_aside(folder)
    os.rename(finished, folder)
    artifact = read_artifact(folder)
    assert artifact is not None
    return artifact
