"""The bundle to a device: only files that differ, by rsync where both sides have it, else as a tar stream; then its manifest.

Nothing is whole before the manifest is there, and that is written on the device, after it has hashed every file.
"""

import json
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from calib.errors import InputError
from export.engines.sidecar import sha256_of
from pipeline.artifact import MANIFEST
from pipeline.device.contents import GRAPHS
from pipeline.devices.device_file import Device
from pipeline.devices.messages import DeviceFailed, Lost, disk_full, not_enough_room, plain, refusal
from pipeline.devices.ssh import OPTIONS, Connection, destination

_HASH_SECONDS = 600.0  # for a device to hash what it has
_MARGIN = 8_000_000  # bytes for reports and logs
_PARTIAL = ".rsync-partial"


@dataclass(frozen=True)
class Sending:
    """What has to go over: names of files, and their bytes."""

    names: tuple[str, ...]
    size: int


def what_is_missing(connection: Connection, place: str, bundle: Path, *, dry: bool) -> Sending:
    """The files of the bundle that the device lacks or has otherwise. Unless `dry`, other files are deleted there."""
    files = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["files"]
    request = {"place": place, "dry": dry}
    names = connection.ask("missing", request, json.dumps(files).encode(), _HASH_SECONDS)["missing"]
    known = tuple(name for name in files if name in set(names))
    return Sending(known, sum((bundle / name).stat().st_size for name in known))


def check_room(device: Device, probe: dict[str, Any], bundle: Path, sending: Sending) -> None:
    """DeviceFailed where the disk would run full: of the files, and of engines, which are about as large as their graphs."""
    graphs = sum(path.stat().st_size for path in (bundle / GRAPHS).iterdir())
    needed = sending.size + 2 * graphs + _MARGIN
    if probe["free"] < needed:
        raise not_enough_room(device, probe["free"], needed, probe["home"])


def send(
    connection: Connection, place: str, bundle: Path, sending: Sending, probe: dict[str, Any], seconds: float
) -> str:
    """Send the files and have the device check and complete the bundle; returns by which way. Lost where it was cut off."""
    by_rsync = bool(probe["rsync"]) and shutil.which("rsync") is not None
    if sending.names:
        if by_rsync:
            connection.ask("receive", {"place": place}, lambda stdin: _pack(stdin, bundle, ()))  # makes the folder
            _rsync(connection, place, bundle, sending.names, seconds)
        else:
            connection.ask("receive", {"place": place}, lambda stdin: _pack(stdin, bundle, sending.names), seconds)
    manifest = (bundle / MANIFEST).read_bytes()
    wrong = connection.ask("seal", {"place": place}, manifest, _HASH_SECONDS)["wrong"]
    if wrong:
        _check_own(bundle, wrong)
        raise Lost(f"{len(wrong)} files did not arrive whole, {wrong[0]} among them")
    return "rsync" if by_rsync else "a tar stream"


def _check_own(bundle: Path, names: Sequence[str]) -> None:
    """InputError where the host's own files are no longer those of its manifest: sending them again would not help."""
    files = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["files"]
    for name in names:
        if sha256_of(bundle / name) != files[name]:
            raise InputError(
                "the bundle was changed while it was sent", got=bundle / name, allowed="a bundle that stays as it is",
                next_step="the same command again",
            )  # fmt: skip


def _pack(stdin: IO[bytes], bundle: Path, names: Sequence[str]) -> None:
    with tarfile.open(fileobj=stdin, mode="w|") as stream:
        for name in names:
            stream.add(bundle / name, arcname=name, recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of users here."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _rsync(connection: Connection, place: str, bundle: Path, names: Sequence[str], seconds: float) -> None:
    """Whole files or none: what was cut off stays in a folder of its own, and rsync goes on from there the next time."""
    device = connection.device
    *words, _, host = destination(device)
    target = f"[{host}]" if ":" in host else host
    with tempfile.TemporaryFile() as said, tempfile.NamedTemporaryFile("w") as listed:
        listed.write("".join(f"{name}\n" for name in names))
        listed.flush()
        command = [
            "rsync", "-p", "--ignore-times", f"--partial-dir={_PARTIAL}", "--timeout=60", f"--files-from={listed.name}",
            "-e", shlex.join(["ssh", *OPTIONS, *words]), f"{bundle}/", f"{target}:{place}/bundle/",
        ]  # fmt: skip
        with connection.processes.running(command, subprocess.DEVNULL, said) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired as error:
                raise DeviceFailed(
                    f"sending the bundle to {device.name} took longer than allowed", got=f"{seconds:g} s",
                    allowed="--timeout send=MINUTES", next_step="the same command goes on where it was",
                ) from error  # fmt: skip
        said.seek(0)
        text = plain(said.read().decode(errors="replace"))
    if process.returncode == 0:
        return
    if "No space left on device" in text or "Disk quota exceeded" in text:
        raise disk_full(device, text.strip().splitlines()[0], place)
    raise refusal(device, 255, text) or Lost(text.strip() or f"rsync ended with {process.returncode}")
