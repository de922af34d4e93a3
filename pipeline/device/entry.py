#!/usr/bin/env python3
"""The command `t2t` of a bundle: checks the bundle's own code against its manifest, then runs it.

    ./t2t run              build → evaluate → benchmark → report
    ./t2t predict IMAGE    what is in it
    ./t2t --help

Needs Python 3.10 or later, numpy, OpenCV, and TensorRT or ONNX Runtime; nothing of ours is installed.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

FAILED, WRONG_INPUT = 1, 2
AGAIN = "copy it again from the host, or make it there: "


def main() -> int:
    """Run one command; returns the exit status."""
    if sys.version_info < (3, 10):  # noqa: UP036  (a device may have an older one beside)
        return stop("Python 3.10 or later is needed", sys.version.split()[0], "python3.10 t2t ...")
    folder = Path(__file__).resolve().parent
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        code = {name: digest for name, digest in manifest["files"].items() if name.endswith(".py")}
        rebuild = str(manifest["rebuild"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return stop(f"the bundle {folder} is refused: it is not whole", error, AGAIN + "t2t-edge bundle --run RUN")
    for name, digest in code.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return stop(f"the bundle {folder} is refused: a file is missing or was changed", name, AGAIN + rebuild)
    # No .pyc files, so that the folder stays as in the manifest; the variable is for processes that this one starts.
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    sys.path.insert(0, str(folder / "lib"))
    try:
        from pipeline.device.cli import run_command
    except KeyboardInterrupt:
        return FAILED
    except ImportError as error:
        return stop("a package is missing", error, "pip install numpy opencv-python-headless")
    return run_command(folder)


def stop(what: str, got: object, next_step: object) -> int:
    """Print what is wrong and how to fix it; returns the exit status."""
    print(
        f"error: {what}\n  got: {got}\n  next: {next_step}",
        file=sys.stderr,
    )
    return WRONG_INPUT


if __name__ == "__main__":
    sys.exit(main())
