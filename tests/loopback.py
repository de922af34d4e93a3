"""Devices to test with: sshd on loopback ports with keys made here, each with a home, a Python and a lock of its own.

What is the product's stays real: OpenSSH's client and server, rsync, tar, signals. `ssh` on the PATH is OpenSSH with a
configuration of its own, so that neither the keys nor the known hosts of the person who runs the tests are touched.
"""

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_START_SECONDS = 10.0


@dataclass
class Loopback:
    """A "device": an sshd on `port` whose logins have `home`, and `python3` first in their PATH."""

    name: str
    folder: Path
    port: int
    server: "subprocess.Popen[bytes]"
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def address(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def lock(self) -> Path:
        return self.folder / "tmp" / "t2t-edge.lock"

    def set_up(self, **changes: str) -> None:
        """Write what a login runs, with `changes` of its environment."""
        self.environment |= changes
        lines = [f"export {name}='{value}'" for name, value in self.environment.items()]
        login = self.folder / "login"
        login.write_text("\n".join(["#!/bin/sh", *lines, 'cd "$HOME"', 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"', ""]))
        login.chmod(0o755)

    def children(self) -> list[int]:
        """The processes of its connections."""
        done = subprocess.run(["pgrep", "-P", str(self.server.pid)], capture_output=True, text=True, check=False)
        return [int(word) for word in done.stdout.split()]


def add(bench: "Bench", name: str, *, rsync: bool = True) -> Loopback:
    """A device, in devices.yaml, that has been logged into."""
    device = bench.add(name, rsync=rsync)
    bench.check(device)
    file = Path("devices.yaml")
    if not file.exists():
        file.write_text("schema: 1\ndevices:\n")
    with file.open("a") as text:
        text.write(f"  {name}:\n    address: {device.address}\n")
    return device


def why_not() -> str:
    """Why there can be no such device here; "" where there can."""
    for name in ("ssh", "ssh-keygen", "pgrep"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    return "" if SSHD else "sshd is not installed (apt-get install openssh-server)"


class Bench:
    """Loopback devices, and the client's side of them, in `folder`."""

    def __init__(self, folder: Path, python: Path):
        self.folder, self.python = folder, python
        self.devices: dict[str, Loopback] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("user", "host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copyfile(folder / "user.pub", folder / "authorized_keys")
        (folder / "known_hosts").touch()
        (folder / "config").write_text(
            f"Host *\n  IdentityFile {folder / 'user'}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder / 'known_hosts'}\n  GlobalKnownHostsFile none\n"
        )  # fmt: skip
        (folder / "bin").mkdir()
        wrapper = folder / "bin" / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "config"} "$@"\n')
        wrapper.chmod(0o755)

    def add(self, name: str, *, known: bool = True, rsync: bool = True) -> Loopback:
        """Start a device; its host key is `known` where the person has accepted it."""
        folder = self.folder / name
        for part in ("home", "tmp", "bin"):
            (folder / part).mkdir(parents=True)
        device_python = folder / "bin" / "python3"
        device_python.write_text(f'#!/bin/sh\nexec {self.python} "$@"\n')  # a link would not find its environment
        device_python.chmod(0o755)
        tools = ("sh", "rsync", "env") if rsync else ("sh", "env")
        for tool in tools:
            if where := shutil.which(tool):
                (folder / "bin" / tool).symlink_to(where)
        port = _free_port()
        device = Loopback(name, folder, port, self._serve(folder, port, "host"))
        path = f"{folder / 'bin'}"
        device.set_up(HOME=str(device.home), TMPDIR=str(folder / "tmp"), PATH=path, OMP_NUM_THREADS="1")
        self.devices[name] = device
        if known:
            self.accept(device)
        return device

    def accept(self, device: Loopback) -> None:
        """What a person does who compares the fingerprint and answers yes."""
        kind, key, *_ = (self.folder / "host.pub").read_text().split()
        with (self.folder / "known_hosts").open("a") as file:
            file.write(f"[127.0.0.1]:{device.port} {kind} {key}\n")

    def change_key(self, device: Loopback) -> None:
        """Start the device anew with another host key."""
        end(device.server)
        other = self.folder / f"other-{device.name}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
        device.server = self._serve(device.folder, device.port, other.name)

    def _serve(self, folder: Path, port: int, key: str) -> "subprocess.Popen[bytes]":
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself in before a login
        config = folder / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {self.folder / key}\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"KbdInteractiveAuthentication no\nMaxStartups 100\nForceCommand {folder / 'login'}\nLogLevel ERROR\n"
        )  # fmt: skip
        assert SSHD is not None
        with (folder / "sshd.log").open("ab") as log:
            server = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return server
            time.sleep(0.05)
        end(server)
        pytest.skip(f"sshd does not start here: {(folder / 'sshd.log').read_text()}")

    def check(self, device: Loopback) -> None:
        """Skip the tests where a login is not possible for reasons of this machine, such as a locked account."""
        user, _, _ = device.address.partition("@")
        command = [
            str(self.folder / "bin" / "ssh"),
            "-o",
            "BatchMode=yes",
            "-p",
            str(device.port),
            f"{user}@127.0.0.1",
            "echo",
            "in",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if done.stdout.strip() != "in":
            pytest.skip(f"sshd lets nobody in here: {done.stderr} {(device.folder / 'sshd.log').read_text()}")

    def close(self) -> None:
        """End every server, and what still runs on the devices."""
        for device in self.devices.values():
            end(device.server)
            for state in device.home.glob("t2t-edge/*/state.json"):
                end_session(state)


def end(server: "subprocess.Popen[bytes]") -> None:
    """End a process that we started."""
    if server.poll() is None:
        server.kill()
    server.wait()


def end_session(state: Path) -> None:
    """End a run that a test left."""
    values = json.loads(state.read_text())
    if values["phase"] == "running":
        for process in (values.get("child"), values.get("pid")):
            if process:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, 9)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ssh_processes(bench: Bench) -> list[int]:
    """The clients of our own connections: they name the bench's configuration."""
    done = subprocess.run(
        ["pgrep", "-f", f"ssh -F {bench.folder / 'config'}"], capture_output=True, text=True, check=False
    )
    return [int(word) for word in done.stdout.split()]
