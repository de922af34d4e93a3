"""What may go wrong between host and device, each as one message: what, got, allowed, next."""

import re
from typing import Any

from calib.errors import InputError
from pipeline.console.figures import duration, megabytes, one_line
from pipeline.devices.device_file import Device

JETSON_INSTALL = "sudo apt-get install python3-libnvinfer, and pip install 'cuda-bindings==12.*' on the device"


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would obey


def plain(text: str) -> str:
    """Text of a device as it may be printed: without control signs, line ends and tabs apart."""
    return _CONTROL.sub("", text)


class DeviceFailed(InputError):
    """A device or the way to it failed, where nothing that a person gave is wrong: exit status 1."""


class Lost(Exception):
    """The connection is gone, or none came about; what runs on the device goes on. The text says why."""


def refusal(device: Device, status: int, text: str) -> InputError | None:
    """The message for an ssh that ended with `status` and the words `text`; None where another attempt may help."""
    name = device.name
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in text:
        place = f"[{device.host}]:{device.port}" if device.port and device.port != 22 else device.host
        return InputError(
            f"the host key of {name} is another one than before", got=_last(text, "IDENTIFICATION", "fingerprint|Offending"),
            allowed="the key in your known_hosts: somebody may be in between, or the device was installed anew",
            next_step=f"find out why; if it is right: ssh-keygen -R '{place}', then {device.ssh('true')} and compare",
        )  # fmt: skip
    if "Host key verification failed" in text or "host key is known" in text:
        return InputError(
            f"the host key of {name} is not known to you", got=_last(text, "host key"),
            allowed="keys that you have accepted yourself; none is accepted for you",
            next_step=f"{device.ssh('true')}, compare the fingerprint with what ssh-keygen -lf "
            "/etc/ssh/ssh_host_ed25519_key.pub prints on the device itself, and answer yes",
        )  # fmt: skip
    if status == 255 and re.search(r"Permission denied|Too many authentication failures", text):
        port = f"-p {device.port} " if device.port else ""
        return InputError(
            f"{name} does not let you in", got=_last(text, "denied|authentication"),
            allowed="a key that works without a question: in ~/.ssh, or in your agent",
            next_step=f"ssh-add, or ssh-copy-id {port}{device.ssh().split()[-1]}; then: {device.ssh('true')}",
        )  # fmt: skip
    if status == 255 and re.search(
        r"Could not resolve|Name or service not known|Bad configuration|no such identity", text, re.I
    ):
        return InputError(
            f"{name} cannot be reached", got=one_line(text), allowed="a host that your OpenSSH finds",
            next_step=f"try {device.ssh('true')}; another address: t2t-edge device add {name} user@host",
        )  # fmt: skip
    if found := re.search(r"t2t-edge: Python (\S+)", text):
        return _other_python(device, f"Python {found[1]}")
    if status in (126, 127):
        return _other_python(device, one_line(text) or f"no {device.python}")
    return None


def _last(text: str, *patterns: str) -> str:
    """The last line that matches the last pattern that any matches."""
    for pattern in reversed(patterns):
        if found := [line.strip() for line in text.splitlines() if re.search(pattern, line)]:
            return found[-1]
    return one_line(text)


def _other_python(device: Device, got: str) -> InputError:
    return InputError(
        f"{device.name} has another Python than is needed", got=f"{device.python}: {got}", allowed="Python 3.10 or later",
        next_step=f"install one there and name it: t2t-edge device add {device.name} {device.address} --python python3.10",
    )  # fmt: skip


def unreachable(device: Device, why: str) -> DeviceFailed:
    """No connection came about."""
    return DeviceFailed(
        f"{device.name} cannot be reached", got=f"{device.address}: {one_line(why)}",
        allowed="a device that is on and in the network",
        next_step=f"try it: {device.ssh('true')}; another address: t2t-edge device add {device.name} user@host",
    )  # fmt: skip


def still_lost(device: Device, why: str, seconds: float, again: str) -> DeviceFailed:
    """The connection is gone and does not come back."""
    return DeviceFailed(
        f"the connection to {device.name} is lost", got=f"for {duration(seconds)}: {one_line(why)}",
        allowed="what runs there goes on", next_step=f"the same command attaches again: {again}",
    )  # fmt: skip


def busy(device: Device, note: dict[str, Any], run: str, token: str, again: str) -> DeviceFailed:
    """Another run holds the device."""
    known = (
        f"{note['owner']}: run {note['run']}, since {note['since']}"
        if {"owner", "run", "since"} <= note.keys()
        else None
    )
    mine = note.get("token") == token
    return DeviceFailed(
        f"{device.name} is busy with another run", got=known or "a run that has not said whose it is",
        allowed="one run at a time on a device, because side by side they would measure each other",
        next_step=f"t2t-edge device stop {device.name} --run {run}, or wait; then: {again}" if mine else
        f"wait, or ask {note.get('owner', 'the other users of the device')}; then: {again}",
    )  # fmt: skip


def disk_full(device: Device, got: str, place: str) -> DeviceFailed:
    """No room."""
    return DeviceFailed(
        f"the disk of {device.name} is full", got=got, allowed="room for the bundle and the engines that are built of it",
        next_step=f"make room: {device.ssh('du -xh --max-depth=1 ' + place)}; a smaller bundle: --engine NAME --images 200",
    )  # fmt: skip


def not_enough_room(device: Device, free: int, needed: int, home: str) -> DeviceFailed:
    """It would run full."""
    return disk_full(device, f"{megabytes(free)} MB free in {home}, about {megabytes(needed)} MB are needed", home)


def slow_step(device: Device, step: str, seconds: float, more: str, again: str) -> DeviceFailed:
    """A step took longer than its limit."""
    return DeviceFailed(
        f"{step} on {device.name} took longer than allowed{more}", got=f"{duration(seconds)}, then it was ended",
        allowed=f"--timeout {step}=MINUTES", next_step=f"{again} --timeout {step}={max(1, round(2 * seconds / 60))}",
    )  # fmt: skip


def failed_run(device: Device, problem: dict[str, Any], status: int, again: str, log: str) -> DeviceFailed:
    """What became of a run that did not come to its end."""
    kind, step = problem.get("kind"), problem.get("step") or "the start"
    name, engine = device.name, problem.get("engine")
    what_of = f"the build of {engine}" if engine else step
    if kind == "timeout":
        return slow_step(device, step, problem["seconds"], f" ({engine})" if engine else "", again)
    if kind == "disk":
        return disk_full(device, f"{step}: {one_line(problem['text'])}", problem["place"])
    if kind == "killed" and problem["signal"] == 9:
        sure = "the system was out of memory" if problem["out_of_memory"] else "signal 9, mostly for want of memory"
        return DeviceFailed(
            f"{name} is out of memory: {what_of} was killed", got=sure,
            allowed="enough memory and swap for TensorRT's builder",
            next_step="lower workspace_mib in the recipe's build[].options, add swap (docs/jetson.md), close the desktop there, "
            f"or one engine: --engine NAME; finished engines are kept: {again}",
        )  # fmt: skip
    if kind == "killed":
        return DeviceFailed(
            f"{what_of} crashed on {name}", got=f"signal {problem['signal']}", next_step=f"see {log}; then: {again}"
        )
    if kind == "slept":
        return DeviceFailed(
            f"{name} slept while it measured", got=f"{duration(problem['seconds'])} in {step}",
            allowed="a device that stays awake",
            next_step=f"{device.ssh('sudo systemctl mask sleep.target suspend.target')}; engines are kept: {again}",
        )  # fmt: skip
    if kind == "stopped":
        return DeviceFailed(
            f"the run on {name} was stopped", got=f"in {step}", next_step=f"finished engines are kept: {again}"
        )
    if kind == "died":
        why = (
            "the device was started again"
            if problem["restarted"]
            else (
                "its processes are gone without a word: out of memory, or ended at the end of the login (KillUserProcesses)"
            )
        )
        return DeviceFailed(
            f"the run on {name} ended early", got=f"in {step}: {why}", allowed="a device that stays on",
            next_step=f"finished engines are kept: {again}",
        )  # fmt: skip
    return DeviceFailed(
        f"{step} failed on {name}", got=one_line(problem.get("text", "")) or f"exit status {status}",
        next_step=f"see {log}; what is there and what is missing: t2t-edge device list; then: {again}",
    )  # fmt: skip


def no_backend(device: Device, text: str, again: str) -> DeviceFailed:
    """No engine runtime of the bundle is there, or not the one that was asked for."""
    found = re.search(r"^  got: (.*)$", text, re.MULTILINE)
    return DeviceFailed(
        f"{device.name} has no TensorRT or other runtime for these engines", got=found[1] if found else one_line(text),
        allowed="TensorRT 10.3 or newer with cuda-bindings, or ONNX Runtime",
        next_step=f"{JETSON_INSTALL}; or pip install onnxruntime there; then: {again}",
    )  # fmt: skip


def without_tensorrt(device: Device, reason: str) -> str:
    """A remark, no failure: another runtime is measured in its place."""
    return (
        f"{device.name} has no TensorRT that works\n  got: {reason}\n"
        f"  allowed: the engines of another runtime, which are built in its place\n  next: {JETSON_INSTALL}"
    )


def clock_skew(device: Device, seconds: float) -> str:
    """A remark, no failure: nothing that is measured depends on the time of day."""
    way = "ahead of" if seconds > 0 else "behind"
    return (
        f"the clock of {device.name} is wrong\n  got: {duration(abs(seconds))} {way} this machine's\n"
        f"  allowed: a minute; durations are right all the same, dates in its log and report are not\n"
        f"  next: {device.ssh('sudo timedatectl set-ntp true')}"
    )
