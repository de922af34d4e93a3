"""`device run`: the bundle, every device at once, and the page of all of them."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from calib.errors import InputError
from pipeline.commands.command import command_line, run_to_read
from pipeline.console.exit_status import DONE, FAILED, say
from pipeline.console.figures import counted, megabytes
from pipeline.device.bundle import is_current, write_bundle
from pipeline.device.choice import read_run
from pipeline.device.contents import Bundle, open_bundle
from pipeline.devices.device_file import Device, chosen_devices
from pipeline.devices.joined import kept_reports, print_joined, write_page
from pipeline.devices.kept import Kept
from pipeline.devices.one_device import MINUTES, STEPS, OneDevice, Work
from pipeline.devices.send import check_room, what_is_missing
from pipeline.devices.several import Lines, Outcome, on_each, worst
from pipeline.devices.ssh import Connection
from pipeline.run.lock import hold

_IMAGES = 1000


def run_on_devices(options: argparse.Namespace) -> int:
    """Returns the worst exit status of the devices."""
    devices = chosen_devices(options.devices, options.names, options.all)
    minutes, folder = _minutes(options.timeout), run_to_read(options)
    if options.dry_run:
        return _plan(options, devices, folder)
    bundle = _bundle(options, folder)
    lines = Lines(devices)
    work = Work(
        bundle,
        Kept.of(folder),
        folder.name,
        _arguments(options),
        minutes,
        60 * options.patience,
        command_line(options),
        lines.say,
    )
    parts: dict[str, OneDevice] = {}

    def finish(connection: Connection) -> int:
        part = parts[connection.device.name] = OneDevice(connection, work)
        return part.finish()

    try:
        outcomes = on_each(devices, finish, lines.error)
    except KeyboardInterrupt:
        return say(_interrupted(options, folder, [name for name, part in parts.items() if part.begun]), FAILED)
    return _tell(options, work, outcomes)


def _minutes(asked: Sequence[str]) -> dict[str, float]:
    """The limit of each step; InputError for a step that there is not, or no number."""
    minutes = dict(MINUTES)
    for text in asked:
        step, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if step not in minutes or not 0 < number < float("inf"):
            raise InputError(
                "--timeout is a step's limit in minutes", got=text, allowed=f"STEP=MINUTES, of {', '.join(minutes)}",
                next_step=f"--timeout build={MINUTES['build']:g}",
            )  # fmt: skip
        minutes[step] = number
    return minutes


def _arguments(options: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """What the bundle's commands get, by step."""
    threads = ("--threads", str(options.threads)) if options.threads else ()
    return {
        "build": ("--backend", options.backend) if options.backend else (),
        "evaluate": threads,
        "benchmark": threads,
    }


def _bundle(options: argparse.Namespace, folder: Path) -> Bundle:
    """The run's bundle, written if the one that is there is not of the present run, code and options."""
    run, place = read_run(folder), folder / "bundle"
    if not is_current(place, run, options.engine, options.images):
        print(f"writing the bundle {place}", flush=True)
        with hold(folder, command_line(options)):
            write_bundle(
                folder, place, options.engine, options.images or _IMAGES, f"t2t-edge {_bundle_command(options, folder)}"
            )
    return open_bundle(place, "all")


def _bundle_command(options: argparse.Namespace, folder: Path) -> str:
    from pipeline.console.known_runs import command_for

    engine = f" --engine {options.engine}" if options.engine else ""
    images = f" --images {options.images}" if options.images else ""
    return command_for(folder, "bundle").removeprefix("t2t-edge ") + engine + images


def _plan(options: argparse.Namespace, devices: Sequence[Device], folder: Path) -> int:
    """Say what would be sent and run; nothing is written, here or there."""
    run, place = read_run(folder), folder / "bundle"
    current = is_current(place, run, options.engine, options.images)
    print(f"bundle: {place}, {'current' if current else 'would be written anew, and all that differs sent'}")
    bundle = open_bundle(place, "all") if current else None
    arguments = _arguments(options)
    steps = "; ".join(" ".join(["./t2t", step, *arguments.get(step, ())]) for step in STEPS)
    lines = Lines(devices)

    def plan(connection: Connection) -> None:
        device, there = connection.device, f"{connection.device.folder}/{folder.name}-…"
        kept = Kept(folder / "devices")
        if (kept.folder / "id").exists():
            there = kept.place(device, folder.name)
        probe = connection.ask("probe", {"place": there})
        if bundle is not None:
            sending = what_is_missing(connection, there, bundle.folder, dry=True)
            check_room(device, probe, bundle.folder, sending)
            lines.say(
                device.name,
                f"would send {counted(len(sending.names), 'file')}, {megabytes(sending.size)} MB, to ~/{there}/bundle",
            )
        lines.say(device.name, f"would run there, with {device.python} {probe['python']}: {steps}")
        if probe["holder"] is not None:
            lines.say(device.name, f"it is busy now: {probe['holder'].get('owner')}, run {probe['holder'].get('run')}")

    outcomes = on_each(devices, plan, lines.error)
    return worst([outcome.status() for outcome in outcomes])


def _interrupted(options: argparse.Namespace, folder: Path, running: Sequence[str]) -> str:
    if not running:
        return "interrupted: nothing was started; the same command goes on from there"
    from pipeline.console.known_runs import command_for

    stop = command_for(folder, f"device stop {' '.join(running)}")
    return (
        f"interrupted: the run goes on on {', '.join(running)}\n  stop it: {stop}\n"
        f"  attach again: {command_line(options)}"
    )


def _tell(options: argparse.Namespace, work: Work, outcomes: Sequence[Outcome[int]]) -> int:
    """The page, the table, and a line for each device that failed."""
    compared = kept_reports(work.kept, work.bundle.key)
    if compared:
        page = write_page(work.kept, compared, options.budget)
        print_joined(compared, options.budget)
        print(f"\nwritten: {page}")
        options.document["page"] = str(page)
    statuses = {outcome.device.name: outcome.status(outcome.answer or DONE) for outcome in outcomes}
    for outcome in outcomes:
        if outcome.error is not None:
            say(f"failed: {outcome.error.what}", FAILED)
    options.document["devices"] = {outcome.device.name: _entry(outcome, statuses) for outcome in outcomes}
    return worst(list(statuses.values()))


def _entry(outcome: Outcome[int], statuses: Mapping[str, int]) -> dict[str, object]:
    from pipeline.console.json_document import error_entry

    error = outcome.error
    return {"exit_status": statuses[outcome.device.name], "error": error and error_entry(error)}
