"""runs/RUN/devices/: what devices measured, by name; one folder a device, and the page of all of them."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.artifact import swap_folder, write_json
from pipeline.console.run_log import LOG
from pipeline.devices.device_file import Device
from pipeline.devices.messages import Lost
from pipeline.devices.remote.supervisor import RESULTS, sha256

ABOUT = "device.json"
DEVICES, TOKEN = "devices", "id"
_MOST_BYTES = 4_000_000_000  # of one result; a device is not trusted to fill this disk
_PIECE = 1 << 20


@dataclass(frozen=True)
class Kept:
    """The folder `devices/` of a run."""

    folder: Path

    @classmethod
    def of(cls, run_folder: Path) -> "Kept":
        """Of a run; the folder is made."""
        folder = run_folder / DEVICES
        folder.mkdir(exist_ok=True)
        return cls(folder)

    def token(self) -> str:
        """What tells this run from every other on a device; it goes with the run's folder, not with this machine."""
        path = self.folder / TOKEN
        with self.held():
            if not path.exists():
                path.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
        return path.read_text(encoding="utf-8").strip()

    def place(self, device: Device, run: str) -> str:
        """The session's folder on the device, below the home."""
        return f"{device.folder}/{run}-{self.token()}"

    def results(self, name: str) -> Path:
        """The results of a device."""
        return self.folder / name

    @contextmanager
    def held(self) -> Iterator[None]:
        """For one thread of one process at a time, and only for moments: others wait."""
        import filelock

        with filelock.FileLock(self.folder / ".lock", timeout=120):
            yield

    def keep(self, name: str, fetched: Path, about: dict[str, Any], log: str) -> None:
        """Put checked results in the place of earlier ones."""
        (fetched / LOG).write_text(log, encoding="utf-8")
        write_json(fetched / ABOUT, about)
        with self.held():
            swap_folder(fetched, self.results(name))

    def keep_log(self, name: str, log: str) -> Path:
        """The log of a run without results; earlier results stay."""
        path = self.results(name) / LOG
        with self.held():
            path.parent.mkdir(exist_ok=True)
            path.write_text(log, encoding="utf-8")
        return path

    def about(self, name: str) -> dict[str, Any] | None:
        """What is known of kept results: the bundle's key, address, time."""
        try:
            found = json.loads((self.results(name) / ABOUT).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def partial(self, name: str) -> Path:
        """An empty folder for what is being fetched, of this process; those of dead ones are deleted."""
        for left in self.folder.glob(f".{name}=*"):
            owner = int(left.name.rpartition("=")[2])
            if owner == os.getpid() or not _lives(owner):
                shutil.rmtree(left, ignore_errors=True)
        folder = self.folder / f".{name}={os.getpid()}"
        folder.mkdir()
        return folder


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def take_files(folder: Path, files: list[dict[str, Any]], stream: IO[bytes], named: dict[str, str]) -> None:
    """Write what a device sends into `folder`: only names of results, whole, with the hashes in `named`, which the run noted at
    its end. Lost where it is cut off, ValueError where it is something else."""
    for file in files:
        name, size = file["name"], file["bytes"]
        if name not in RESULTS or name not in named or not isinstance(size, int) or not 0 <= size <= _MOST_BYTES:
            raise ValueError(f"{name} of {size} bytes is no result of this run")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as target:
            left = size
            while left and (piece := stream.read(min(left, _PIECE))):
                target.write(piece)
                left -= len(piece)
        if left:
            raise Lost("the results were cut off")
        if sha256(path) != named[name]:
            raise ValueError(f"{name} is not what the run wrote: its hash is another one")
