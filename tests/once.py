"""What several files and workers need is made once for a test run: trained runs, exported graphs, built engines."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

Once = Callable[[str, Callable[[Path], object]], Path]


def made_once(base: Path) -> Once:
    """`once(name, make)`: a folder that `make(folder)` filled, a single time for all workers, whose reader leaves it as it is.

    `base` is pytest's folder for temporary files, of this worker where there are several.
    """
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    shared.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = shared / name, shared / f"{name}.whole"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed in the middle
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return once
