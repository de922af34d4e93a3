"""Kernel times that TensorRT measured, kept for the next build: it is then faster, and picks the same kernels.

One file for each release and GPU, for times mean nothing on others. Its first line is the hash of the rest, so that
TensorRT never reads a file that was cut off or changed.
"""

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from export.engines.tensorrt.progress import Progress


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/t2t-edge`, or `~/.cache/t2t-edge`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2t-edge"


def cache_path(flavour: str, version: str, gpu: str) -> Path:
    """`timing-tensorrt-10.3.0-orin-sm87`."""
    name = re.sub(r"[^a-z0-9.]+", "-", f"{flavour} {version} {gpu}".lower()).strip("-")
    return cache_folder() / f"timing-{name}"


def attach_cache(config: Any, path: Path, progress: Progress) -> None:
    """Give the builder the times in `path`, or an empty cache to fill; says so where the file is of no use."""
    kept, problem = _read(path)
    if kept:
        cache = config.create_timing_cache(kept)
        # False: TensorRT refuses what it would not have measured itself (another GPU, CUDA or release).
        if cache is not None and config.set_timing_cache(cache, False):
            return
        problem = "TensorRT does not take it"
    if problem:
        progress.say(f"timing cache {path} is ignored: {problem}")
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        progress.say("TensorRT gives no timing cache: this build's kernel times are not kept")


def save_cache(config: Any, path: Path, progress: Progress) -> None:
    """Keep the builder's times in `path`, whole or not at all; a cache that cannot be written is said, not an error."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    content = bytes(memoryview(cache.serialize()))
    try:
        _write(path, content)
    except OSError as error:
        progress.say(f"the timing cache is not kept: {error}")


def _read(path: Path) -> tuple[bytes, str]:
    """The content, and what is wrong with the file; neither where there is none."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return b"", ""
    except OSError as error:
        return b"", str(error)
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return b"", "it is damaged"
    return content, ""


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two builds may write at a time, and the later one stays.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
