"""A result of one run in another: the same files under a second name, so that each run is whole by itself."""

import os
import shutil
from pathlib import Path

import filelock

from pipeline.artifact import MANIFEST, Artifact, read_artifact
from pipeline.run.kept import find_kept, put_in_place

_LOCK = ".adopt.lock"


def adopt(artifact: Artifact, run_folder: Path, stage: str) -> Artifact:
    """`artifact` as the result of `stage` in a run; what that has of the stage is kept as with any other change.

    Its files are hard links, copies where the file system has none; several processes may do so at once. A result is never
    written to again, only replaced, so that neither run notices the other.
    """
    folder = run_folder / stage
    run_folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(run_folder / _LOCK):
        there = read_artifact(folder)
        if there is not None and there.key == artifact.key:
            return there
        if (kept := find_kept(folder, artifact.key)) is not None:
            return put_in_place(kept.folder, folder)
        partial = run_folder / f".{stage}.adopted"
        shutil.rmtree(partial, ignore_errors=True)
        _link_all(artifact, partial)
        return put_in_place(partial, folder)


def _link_all(artifact: Artifact, to: Path) -> None:
    """The files that the manifest lists, and the manifest last."""
    for name in [*artifact.outputs, MANIFEST]:
        place = to / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name == MANIFEST:  # it is rewritten where images have moved
            shutil.copyfile(artifact.folder / name, place)
            continue
        try:
            os.link(artifact.folder / name, place)
        except OSError:  # another file system, or one without hard links; a missing file is missing for the copy, too
            shutil.copyfile(artifact.folder / name, place)
