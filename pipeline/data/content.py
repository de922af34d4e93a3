"""Files known by their content: what was read once is noted in a cache, so that a second look only asks for sizes and times.

The cache lies in the user's cache folder (`~/.cache/t2t-edge/images` on Linux), one file of 49 bytes an image for each folder of
images. It may be deleted at any time, and where it cannot be written every look reads all files again.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.preprocess import decode_image, read_bytes
from pipeline.console.progress import track

NOT_TRIED, DAMAGED, DECODES = 0, 1, 2
CONTENT = np.dtype(
    [("name", "<u8"), ("content", "<u8", (2,))]
)  # hash of the relative name, BLAKE2b of the file's bytes
_ENTRY = np.dtype([*CONTENT.descr, ("size", "<i8"), ("mtime", "<i8"), ("ctime", "<i8"), ("decodes", "u1")])
_CHUNK = 64  # files a task
_SAVE_SECONDS = 60.0  # what a killed first look of a large data set loses at most
_SILENT_SECONDS = 2.0  # of waiting for another process
_SETTLED_NS = (
    2_000_000_000  # a file changed later than this before it was read may change again within the same time stamp
)

Entries = NDArray[Any]  # of _ENTRY


@dataclass(frozen=True)
class Contents:
    """What the files below `root` hold: `table` (N,) of CONTENT in their order; `damaged` are those found not to decode."""

    root: Path
    names: tuple[str, ...]
    table: NDArray[Any]
    damaged: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of all names and contents, in order; "" of no files."""
        return hashlib.sha256(self.table.tobytes()).hexdigest() if len(self.names) else ""


def read_contents(root: Path, names: Sequence[str], *, decode: bool, title: str) -> Contents:
    """What the files `names`, relative to `root`, hold. With `decode`, each is also decoded once as an image.

    InputError where one cannot be read. Only files that the cache does not know are read, in parallel and with a progress bar.
    """
    entries = _stat_all(root, names)
    place = _cache_file(root)
    todo = _take_known(entries, _read_cache(place), decode)
    if todo.size:
        with _one_reader(place, title):
            todo = _take_known(entries, _read_cache(place), decode)  # another process may just have read them
            _read_all(root, names, entries, todo, decode, title, lambda: _write_cache(place, entries))
    table = np.empty(len(names), CONTENT)
    table["name"], table["content"] = entries["name"], entries["content"]
    damaged = np.flatnonzero(entries["decodes"] == DAMAGED) if decode else ()
    return Contents(root, tuple(names), table, tuple(names[int(index)] for index in damaged))


def _stat_all(root: Path, names: Sequence[str]) -> Entries:
    """An entry a file, its content not yet known. InputError where a file is gone."""
    entries = np.zeros(len(names), _ENTRY)
    entries["name"] = _hash_names(names)
    stats = (os.stat(f"{root}/{name}") for name in names)  # noqa: PTH116  (a million Paths take seconds)
    try:
        known = np.fromiter(((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats), "3<i8", len(names))
    except OSError as error:
        raise _unreadable(Path(os.fsdecode(error.filename)), error) from error
    entries["size"], entries["mtime"], entries["ctime"] = known.T
    return entries


def _hash_names(names: Sequence[str]) -> NDArray[np.uint64]:
    """A hash of each name, (N,): the sum of its bytes, each times a fixed odd number of its place. At once for a million."""
    if not names:
        return np.zeros(0, np.uint64)
    text = np.array([os.fsencode(name) for name in names])  # filled up with zeros, which are in no name
    columns = text.view(np.uint8).reshape(len(names), -1)
    hashes = np.zeros(len(names), np.uint64)
    for place, column in enumerate(columns.T):
        factor = np.frombuffer(hashlib.blake2b(str(place).encode(), digest_size=8).digest(), "<u8")[0] | np.uint64(1)
        hashes += column.astype(np.uint64) * factor
    return hashes


def _take_known(entries: Entries, known: Entries, decode: bool) -> NDArray[np.intp]:
    """Copy what `known` has of unchanged files; the indices of those still to be read."""
    ready = np.zeros(len(entries), bool)
    if len(known):
        found = known
        if not np.array_equal(known["name"], entries["name"]):  # files were added, removed or not noted
            order = np.argsort(known["name"], kind="stable")
            at = np.searchsorted(known["name"], entries["name"], sorter=order)
            found = known[order[np.minimum(at, len(known) - 1)]]
        ready = np.logical_and.reduce([found[key] == entries[key] for key in ("name", "size", "mtime", "ctime")])
        if decode:
            ready &= found["decodes"] != NOT_TRIED
        for key in ("content", "decodes"):
            entries[key][ready] = found[key][ready]
    return np.flatnonzero(~ready)


def _read_all(
    root: Path, names: Sequence[str], entries: Entries, todo: NDArray[np.intp], decode: bool, title: str,
    save: Callable[[], None],
) -> None:  # fmt: skip
    """Fill in the entries `todo`, several files at a time; `save` is called now and then, and however it ends."""
    saved = time.monotonic()

    def read(chunk: NDArray[np.intp]) -> None:
        for index in chunk:
            _read_one(Path(f"{root}/{names[index]}"), entries, int(index), decode)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = [pool.submit(read, todo[start : start + _CHUNK]) for start in range(0, len(todo), _CHUNK)]
        try:
            for done, _ in enumerate(track(range(len(todo)), title)):
                if done % _CHUNK == 0:
                    tasks[done // _CHUNK].result()
                if time.monotonic() - saved > _SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            save()


def _read_one(path: Path, entries: Entries, index: int, decode: bool) -> None:
    """Content and, with `decode`, whether it decodes. Its size becomes -1, which is not noted, where it may still be changing."""
    now = time.time_ns()
    try:
        data = read_bytes(path)
    except InputError as error:
        raise _unreadable(path, error.__cause__ or error) from error
    entries["content"][index] = np.frombuffer(hashlib.blake2b(data.data, digest_size=16).digest(), "<u8")
    if decode:
        entries["decodes"][index] = DECODES if _decodes(data, path) else DAMAGED
    if now - entries["ctime"][index] < _SETTLED_NS:  # a change shows in it, whatever the file's own time is set to
        entries["size"][index] = -1


def _decodes(data: NDArray[np.uint8], path: Path) -> bool:
    try:
        decode_image(data, path)
    except InputError:
        return False
    return True


def _unreadable(path: Path, error: BaseException) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(
        "an image cannot be read", got=f"{path}: {reason}", allowed="files that this user can read",
        next_step=f"let it be read, or move it away: ls -l '{path}'",
    )  # fmt: skip


# --- the cache --------------------------------------------------------------------------------------------------------


def _cache_file(root: Path) -> Path:
    """Where the entries of the folder `root` are."""
    import platformdirs

    name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=16).hexdigest()
    try:
        folder = platformdirs.user_cache_path("t2t-edge", appauthor=False)
    except RuntimeError:  # a user without a home, as of a container: what is under this file cannot be read or written
        folder = Path(os.devnull)
    return folder / "images" / f"{name}.npy"


def _read_cache(place: Path) -> Entries:
    """The entries noted there; none where there is no file, or one of another kind."""
    nothing: Entries = np.zeros(0, _ENTRY)
    try:
        found: Entries = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return nothing
    return found if found.dtype == _ENTRY and found.ndim == 1 else nothing


def _write_cache(place: Path, entries: Entries) -> None:
    """Note the entries whose content is known, whole or not at all. A cache is no reason to stop: what fails is read again."""
    known = entries[entries["content"].any(axis=1) & (entries["size"] >= 0)]
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.save(file, known, allow_pickle=False)
        partial.replace(place)
    except OSError:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def _one_reader(place: Path, title: str) -> Iterator[None]:
    """Under torchrun all processes look at once: one reads, the others then find what it noted. None waits where there is no
    cache to find it in, and a command that does wait says so."""
    import filelock

    lock = filelock.FileLock(place.with_suffix(".lock"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_SILENT_SECONDS)
        except filelock.Timeout:
            if int(os.environ.get("RANK", 0)) == 0:
                print(f"           waiting: another process is {title}", flush=True)
            lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
