"""`device predict`, `logs` and `stop`: what is there of a run on a device."""

import argparse
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from calib.errors import InputError
from pipeline.commands.command import command_line, run_to_read
from pipeline.console.exit_status import DONE, say
from pipeline.console.known_runs import command_for
from pipeline.devices.device_file import chosen_devices
from pipeline.devices.kept import Kept
from pipeline.devices.messages import busy, plain
from pipeline.devices.one_device import note_of
from pipeline.devices.several import Lines, Outcome, on_each, worst
from pipeline.devices.ssh import Connection

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_PREDICT_SECONDS = 600.0
_STOP_SECONDS = 15.0


def predict_there(options: argparse.Namespace) -> int:
    """Send the images, print what the bundle's `predict` says of them; its exit status."""
    (device,) = chosen_devices(options.devices, [options.name], False)
    folder = run_to_read(options)
    kept = Kept.of(folder)
    if kept.about(device.name) is None:
        raise InputError(
            f"nothing of this run was measured on {device.name}", got=f"no results in {kept.results(device.name)}",
            next_step=command_for(folder, f"device run {device.name}"),
        )  # fmt: skip
    files = _images(options.paths)
    more = [
        *(["--engine", options.engine] if options.engine else []),
        *(["--top", str(options.top)] if options.top else []),
    ]
    request = {
        "place": kept.place(device, folder.name), "note": note_of(folder.name, kept.token()),
        "arguments": [*more, *(["--json"] if options.json else []), "--", *files],
    }  # fmt: skip
    again = command_line(options)

    def ask(connection: Connection) -> dict[str, Any]:
        answer = connection.ask("predict", request, lambda stdin: _pack(stdin, files), _PREDICT_SECONDS)
        if "busy" in answer:
            raise busy(device, answer["busy"], folder.name, kept.token(), again)
        return answer

    (outcome,) = on_each([device], ask)
    if outcome.answer is None:
        assert outcome.error is not None
        return say(f"error: {outcome.error}", outcome.status())
    print(plain(outcome.answer["out"]), end="")
    print(plain(outcome.answer["err"]), end="", file=sys.stderr)
    return int(outcome.answer["status"])


def _images(paths: Sequence[Path]) -> dict[str, Path]:
    """Image files by the name that they have there, which is the path as it was given, kept below one folder."""
    found: dict[str, Path] = {}
    for path in paths:
        files = sorted(one for one in path.rglob("*") if one.suffix.lower() in _IMAGES) if path.is_dir() else [path]
        if not files or not all(one.is_file() for one in files):
            raise InputError(
                "there is no such image", got=path, allowed=f"image files, or folders of {', '.join(_IMAGES)}",
                next_step="t2t-edge device predict NAME --run RUN photo.jpg",
            )  # fmt: skip
        for one in files:
            found["/".join(part for part in one.parts if part not in ("/", "..", "."))] = one
    return found


def _pack(stdin: IO[bytes], files: dict[str, Path]) -> None:
    with tarfile.open(fileobj=stdin, mode="w|") as stream:
        for name, path in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = path.stat().st_size, 0o600
            with path.open("rb") as file:
                stream.addfile(member, file)


def print_logs(options: argparse.Namespace) -> int:
    """What the last run has printed on each device."""
    devices, folder = chosen_devices(options.devices, options.names, options.all), run_to_read(options)
    kept, lines = Kept.of(folder), Lines(devices)

    def ask(connection: Connection) -> str | None:
        text: str | None = connection.ask("log", {"place": kept.place(connection.device, folder.name)})["text"]
        return text

    outcomes = on_each(devices, ask)
    for outcome in outcomes:
        if outcome.error is None:
            lines.say(outcome.device.name, outcome.answer or f"nothing of the run {folder.name} has run here")
    options.document["logs"] = {outcome.device.name: outcome.answer for outcome in outcomes}
    return _errors(outcomes)


def stop_runs(options: argparse.Namespace) -> int:
    """End the run on each device; one where nothing runs is left as it is."""
    devices, folder = chosen_devices(options.devices, options.names, options.all), run_to_read(options)
    kept, lines = Kept.of(folder), Lines(devices)

    def ask(connection: Connection) -> bool:
        request = {"place": kept.place(connection.device, folder.name), "seconds": _STOP_SECONDS}
        return bool(connection.ask("stop", request, seconds=3 * _STOP_SECONDS)["stopped"])

    outcomes = on_each(devices, ask)
    for outcome in outcomes:
        if outcome.error is None:
            said = (
                "stopped; finished engines are kept there"
                if outcome.answer
                else f"nothing of the run {folder.name} was running"
            )
            lines.say(outcome.device.name, said)
    options.document["stopped"] = [outcome.device.name for outcome in outcomes if outcome.answer]
    return _errors(outcomes)


def _errors(outcomes: Sequence[Outcome[Any]]) -> int:
    for outcome in outcomes:
        if outcome.error is not None:
            say(f"error: {outcome.error}", outcome.status())
    return worst([outcome.status(DONE) for outcome in outcomes])
