"""A run's session on a device: its folder, its state, and the lock that one run at a time holds on the whole device."""

import errno
import fcntl
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNNING, ENDED = "running", "ended"
STATE, LOG, BALLAST = "state.json", "log.txt", "ballast"
_BALLAST_BYTES = 1 << 16  # freed where the disk is full, so that the state can still say so
_LOOKS = 10  # at the lock: another process may be looking at it, too
State = dict[str, Any]


@dataclass(frozen=True)
class Session:
    """`root` holds `bundle/` as the host sent it, `work/` with the results, and the session's own files."""

    root: Path

    @classmethod
    def at(cls, place: str) -> "Session":
        """The session in a folder below the home; the folder is made."""
        root = Path.home() / place
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.root / "bundle"

    @property
    def work(self) -> Path:
        """Where results go: outside the bundle, which is replaced when the run changes."""
        return self.root / "work"

    @property
    def log(self) -> Path:
        """What the commands of the bundle print."""
        return self.root / LOG

    def read(self) -> State | None:
        """The state; None where nothing has run. A run whose processes are gone is over, with the problem `died`."""
        state = self._read()
        if state is None or state["phase"] != RUNNING:
            return state
        note = holder()
        if note is not None and note.get("token") == state["token"]:
            return state
        state = self._read()  # it may have ended between the two looks
        if state is None or state["phase"] != RUNNING:
            return state
        problem = {"kind": "died", "step": state.get("step"), "restarted": state["boot"] != boot()}
        return state | {"phase": ENDED, "status": 1, "problem": problem, "results": {}}

    def _read(self) -> State | None:
        try:
            state = json.loads((self.root / STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    def write(self, state: State) -> None:
        """Write the state, whole or not at all; on a full disk the room that was kept for it is used."""
        try:
            self._write(state)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            (self.root / BALLAST).unlink(missing_ok=True)
            self._write(state)

    def _write(self, state: State) -> None:
        partial = self.root / f".{STATE}.partial"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.root / STATE)

    def keep_room(self) -> None:
        """Keep room for the last state."""
        (self.root / BALLAST).write_bytes(b"\0" * _BALLAST_BYTES)


def boot() -> str:
    """Changes when the device is started again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def lock_file() -> Path:
    """One for all users of the device: what is measured side by side is not worth anything."""
    return Path(tempfile.gettempdir()) / "t2t-edge.lock"


def take_lock(note: dict[str, Any]) -> int | None:
    """A descriptor that holds the lock, with the owner's `note` in the file; None where another process holds it.

    The system frees the lock with the last process that has the descriptor, however that ended.
    """
    descriptor = _open_lock()
    for look in range(_LOOKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if look == _LOOKS - 1:
                os.close(descriptor)
                return None
            time.sleep(0.1)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
    except OSError:  # another user's file, which only that user writes, or a full disk: it holds without a note
        pass
    return descriptor


def holder() -> dict[str, Any] | None:
    """The note of the process that holds the lock, {} where there is none to read; None where the lock is free."""
    try:
        descriptor = os.open(lock_file(), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        for _ in range(_LOOKS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                if note := _note(descriptor):
                    return note
            time.sleep(0.05)  # it is between its lock and its note, or about to end
        return {}
    finally:
        os.close(descriptor)


def _note(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 1 << 16, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _open_lock() -> int:
    path, flags = lock_file(), os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(2):
        try:
            return os.open(path, os.O_RDWR | flags)
        except FileNotFoundError:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
            except FileExistsError:  # another process was faster
                continue
            os.fchmod(descriptor, 0o666)  # whoever uses the device may hold it
            return descriptor
        except PermissionError:
            return os.open(path, os.O_RDONLY | flags)
    return os.open(path, os.O_RDONLY | flags)
