"""devices.yaml: names and addresses of devices, for a team to commit. No secrets: keys and passwords are OpenSSH's affair."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.errors import InputError
from pipeline.parts.nearest import did_you_mean, nearest

FILE = Path("devices.yaml")
FOLDER = "t2t-edge"  # below the home on the device
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Nothing that begins with a dash or that a shell reads: a host is never taken for an option or a word of a command.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_IPV6 = re.compile(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]+)?")
_PATH = re.compile(r"(~/)?[A-Za-z0-9_./+][A-Za-z0-9_./+-]*")
_KEYS = ("address", "python", "folder")
_ADDRESS = "user@host, user@host:port or user@[IPv6]:port; the user may be left out where ~/.ssh/config has it"
_HEADER = "# Devices for `t2t-edge device`. No secrets: keys, agents and jump hosts are in ~/.ssh of each user.\n"


@dataclass(frozen=True)
class Device:
    """A device: where it is, the Python that runs there, and our folder below its home."""

    name: str
    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    folder: str = FOLDER

    @property
    def address(self) -> str:
        """`user@host:port`, as it was given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")

    def ssh(self, *command: str) -> str:
        """The command for a person to type."""
        port = ["-p", str(self.port)] if self.port else []
        return shlex.join(["ssh", *port, (f"{self.user}@" if self.user else "") + self.host, *command])


def make_device(name: str, address: str, python: str = "python3", folder: str = FOLDER) -> Device:
    """A device of checked values; InputError for a name, an address or a path that is none."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            "a device's name is a plain word", got=name,
            allowed="letters, digits, . _ -, of which the first is a letter or digit",
            next_step="t2t-edge device add bench1 user@host",
        )  # fmt: skip
    user, host, port = _split(address)
    for what, value in (("python", python), ("folder", folder)):
        plain = isinstance(value, str) and _PATH.fullmatch(value) and ".." not in value.split("/")
        if not plain or (what == "folder" and value.startswith(("/", "~"))):
            raise InputError(
                f"{what} of the device {name} is no plain path", got=value,
                allowed="letters, digits and / . _ + -" + ("; below the home" if what == "folder" else "; ~/ for the home"),
            )  # fmt: skip
    return Device(name, host, user, port, python, folder.rstrip("/"))


def _split(address: str) -> tuple[str | None, str, int | None]:
    """User, host and port of an address."""
    found = (
        re.fullmatch(r"(?:([^@]*)@)?(\[[^\]]*\]|[^:@\[\]]*)(?::([0-9]{1,5}))?", address)
        if isinstance(address, str)
        else None
    )
    if found is not None:
        user, host, port = found[1], found[2], int(found[3]) if found[3] else None
        bracketed = host.startswith("[")
        host = host.strip("[]")
        fits = _IPV6.fullmatch(host) if bracketed else _HOST.fullmatch(host)
        if fits and (user is None or _USER.fullmatch(user)) and (port is None or 0 < port < 1 << 16):
            return user, host, port
    raise InputError(
        "this is no address of a device",
        got=address,
        allowed=_ADDRESS,
        next_step="t2t-edge device add bench1 user@host",
    )


def read_devices(path: Path) -> dict[str, Device]:
    """The devices of the file by name, in its order; none where there is no file. InputError where it is not one of ours."""
    import yaml

    from pipeline.parts.yaml_file import read_yaml

    if not path.exists():
        return {}
    try:
        content = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _wrong(path, str(error)) from error
    if not isinstance(content, dict) or set(content) != {"schema", "devices"} or content["schema"] != 1:
        raise _wrong(path, "not exactly the keys schema (1) and devices")
    devices = content["devices"] or {}
    if not isinstance(devices, dict):
        raise _wrong(path, f"devices: {devices}")
    return {name: _device(path, name, values) for name, values in devices.items()}


def _device(path: Path, name: str, values: Any) -> Device:
    if not isinstance(values, dict) or "address" not in values:
        raise _wrong(path, f"{name}: {values}, without an address")
    if unknown := [str(key) for key in values if key not in _KEYS]:
        near = [found for key in unknown for found in nearest(key, _KEYS)]
        raise _wrong(path, f"{name} has {', '.join(unknown)}{did_you_mean(near)}")
    return make_device(name, **values)


def _wrong(path: Path, got: str) -> InputError:
    return InputError(
        f"{path} is no file of devices", got=got,
        allowed=f"schema: 1, and devices: by name, each with {', '.join(_KEYS)}; no passwords or keys: these are OpenSSH's",
        next_step=f"edit {path}; t2t-edge device add writes it",
    )  # fmt: skip


def write_devices(path: Path, devices: dict[str, Device]) -> None:
    """Write the file, whole or not at all; what is as by default is left out."""
    import yaml

    rows = {}
    for name, device in devices.items():
        rows[name] = {"address": device.address}
        default = Device(name, device.host)
        rows[name] |= {key: getattr(device, key) for key in _KEYS[1:] if getattr(device, key) != getattr(default, key)}
    text = _HEADER + yaml.safe_dump({"schema": 1, "devices": rows}, sort_keys=False, allow_unicode=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def chosen_devices(path: Path, names: Sequence[str], every: bool) -> list[Device]:
    """The devices that a command names, or all of the file. InputError where one is not there, or none is named."""
    devices = read_devices(path)
    if every == bool(names):
        raise InputError(
            "devices are named, or all are meant" if every else "no device is named",
            got=f"--all and {', '.join(names)}" if every else None,
            allowed=f"names or --all; devices in {path}: {', '.join(devices) or 'none'}",
            next_step="leave one of them out" if every else "name devices, or --all",
        )  # fmt: skip
    for name in names:
        if name not in devices:
            raise no_such_device(path, name, devices)
    if every and not devices:
        raise no_such_device(path, "--all", devices)
    return [devices[name] for name in (devices if every else dict.fromkeys(names))]


def no_such_device(path: Path, name: str, devices: dict[str, Device]) -> InputError:
    """The error for a name that is not in the file."""
    return InputError(
        f"there is no such device in {path}", got=f"{name}{did_you_mean(nearest(name, devices))}",
        allowed=", ".join(devices) or "none yet", next_step="t2t-edge device add NAME user@host",
    )  # fmt: skip
