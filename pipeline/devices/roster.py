"""`device add`, `list` and `remove`: who is there, and what each can."""

import argparse
from collections.abc import Mapping
from typing import Any

from calib.errors import InputError
from pipeline.console.exit_status import DONE, FAILED
from pipeline.devices.device_file import (
    chosen_devices,
    make_device,
    no_such_device,
    read_devices,
    write_devices,
)
from pipeline.devices.doctor import examine, problems, summary
from pipeline.devices.messages import plain
from pipeline.devices.several import Outcome, on_each, worst

_ROOT = "you log in as root there: nothing needs it; take a plain user"


def add_device(options: argparse.Namespace) -> int:
    """Look at the device, then write it down; one of the same name is replaced."""
    device = make_device(options.name, options.address, options.python, options.folder)
    devices = read_devices(options.devices)
    (outcome,) = on_each([device], examine)
    if outcome.error is not None and not options.unchecked:
        raise InputError(
            outcome.error.what, got=outcome.error.got, allowed=outcome.error.allowed,
            next_step=f"{outcome.error.next_step}; to add it all the same: --unchecked",
        )  # fmt: skip
    write_devices(options.devices, devices | {device.name: device})
    _tell(outcome)
    options.document |= {
        "device": _entry(outcome),
        "file": str(options.devices),
        "next": f"t2t-edge device run {device.name}",
    }
    print(f"written: {options.devices}\nnext: t2t-edge device run {device.name} --run RUN")
    return DONE


def list_devices(options: argparse.Namespace) -> int:
    """Every device, or those that are named; 1 where one cannot be reached or can run nothing."""
    if not options.names and not read_devices(options.devices):
        print(f"no devices in {options.devices}; next: t2t-edge device add NAME user@host")
        options.document["devices"] = []
        return DONE
    outcomes = on_each(chosen_devices(options.devices, options.names, not options.names), examine)
    for outcome in outcomes:
        _tell(outcome)
    options.document["devices"] = [_entry(outcome) for outcome in outcomes]
    return worst(
        [outcome.status(DONE if outcome.answer and outcome.answer["can_run"] else FAILED) for outcome in outcomes]
    )


def remove_device(options: argparse.Namespace) -> int:
    """Take it out of the file; with --clean its folder there is deleted first."""
    devices = read_devices(options.devices)
    if options.name not in devices:
        raise no_such_device(options.devices, options.name, devices)
    device = devices[options.name]
    if options.clean:
        (outcome,) = on_each([device], lambda connection: connection.ask("clean", {"place": device.folder})["deleted"])
        if outcome.error is not None:
            raise outcome.error
        print(f"deleted on {device.name}: {outcome.answer or 'nothing was there'}")
    write_devices(options.devices, {name: other for name, other in devices.items() if name != device.name})
    left = "" if options.clean else f"; what is left there is in ~/{device.folder}"
    print(f"{device.name} is no longer in {options.devices}{left}")
    options.document["removed"] = device.name
    return DONE


def _tell(outcome: Outcome[dict[str, Any]]) -> None:
    device, found = outcome.device, outcome.answer
    print(f"{device.name}  {device.address}")
    if found is None:
        for line in str(outcome.error).splitlines():
            print(f"    {line}")
        return
    state = "engines can run" if found["can_run"] else "no engine can run"
    print(f"    {state}; {plain(_used(found['holder']))}")
    print(plain("".join(f"    {title}: {text}\n" for title, text in summary(found).items())), end="")
    for text in [*problems(found), *([_ROOT] if found["root"] else [])]:
        print(f"    ! {plain(text)}")


def _used(holder: Mapping[str, Any] | None) -> str:
    if holder is None:
        return "free"
    return f"busy: {holder.get('owner', 'somebody')}, run {holder.get('run', 'unknown')}, since {holder.get('since', 'unknown')}"


def _entry(outcome: Outcome[dict[str, Any]]) -> dict[str, Any]:
    error, found = outcome.error, outcome.answer
    entry = {"name": outcome.device.name, "address": outcome.device.address, "reachable": found is not None}
    if error is not None:
        return entry | {"error": {"what": error.what, "got": str(error.got), "next": error.next_step}}
    assert found is not None
    return entry | {
        "busy": found["holder"],
        **summary(found),
        "can_run": found["can_run"],
        "findings": found["findings"],
    }
