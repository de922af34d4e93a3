"""devices.yaml: nothing in it is taken for an option, a word of a shell or a secret."""

from pathlib import Path

import pytest

from calib.errors import InputError
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.devices.device_file import chosen_devices, make_device, read_devices, write_devices
from pipeline.devices.ssh import OPTIONS, destination, python_word


@pytest.mark.parametrize(
    ("address", "user", "host", "port"),
    [
        ("nvidia@10.0.0.2", "nvidia", "10.0.0.2", None), ("nvidia@orin.local:2222", "nvidia", "orin.local", 2222),
        ("orin", None, "orin", None), ("nvidia@[fe80::1%eth0]:22", "nvidia", "fe80::1%eth0", 22), ("[::1]", None, "::1", None),
    ],
)  # fmt: skip
def test_an_address(address: str, user: str | None, host: str, port: int | None) -> None:
    device = make_device("a", address)
    assert (device.user, device.host, device.port) == (user, host, port)
    assert device.address == address
    *_, dashes, last = destination(device)
    assert (dashes, last) == ("--", host)


@pytest.mark.parametrize(
    "address",
    [
        "-oProxyCommand=touch /tmp/x", "user@-oProxyCommand=x", "-l@host", "user@host;id", "user@$(id)", "user@host:port",
        "user@host:0", "user@host:70000", "user@ho st", "a@b@c", "", "user@", "user@host:22:23", "user@[::1", "user@`id`",
        "user@host\n", "us er@host", 7,
    ],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InputError, match="no address of a device"):
        make_device("a", address)


@pytest.mark.parametrize("name", ["", "-a", "a b", "../a", "a/b", ".a", "a;b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InputError, match="a device's name is a plain word"):
        make_device(name, "user@host")


@pytest.mark.parametrize("folder", ["/etc", "~/x", "../x", "a/../../b", "-a", "a b", "a;b", "$HOME"])
def test_a_folder_stays_below_the_home(folder: str) -> None:
    with pytest.raises(InputError, match="folder of the device a is no plain path"):
        make_device("a", "user@host", folder=folder)


def test_a_python_is_a_word() -> None:
    assert python_word("python3.10") == "python3.10"
    assert python_word("~/venv/bin/python") == '"$HOME"/venv/bin/python'
    with pytest.raises(InputError, match="python of the device a"):
        make_device("a", "user@host", python="python3; rm -rf x")


def test_no_host_key_is_accepted_and_nothing_is_asked() -> None:
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "ClearAllForwardings=yes"):
        assert option in OPTIONS
    assert "-a" in OPTIONS, "the agent stays here"


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    devices = {
        "b": make_device("b", "user@host:2222", python="~/venv/bin/python"), "a": make_device("a", "orin", folder="bundles"),
    }  # fmt: skip
    write_devices(file, devices)
    assert read_devices(file) == devices
    assert file.read_text().splitlines()[1:] == [
        "schema: 1", "devices:", "  b:", "    address: user@host:2222", "    python: ~/venv/bin/python",
        "  a:", "    address: orin", "    folder: bundles",
    ]  # fmt: skip
    assert [device.name for device in chosen_devices(file, ["a", "b", "a"], False)] == ["a", "b"]
    assert [device.name for device in chosen_devices(file, [], True)] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b", "not exactly the keys schema"), ("schema: 2\ndevices: {}", "not exactly the keys"),
        ("[", "is no file of devices"),
        ("schema: 1\ndevices: [a]", "devices: ['a']"), ("schema: 1\ndevices:\n  a: orin", "without an address"),
        ("schema: 1\ndevices:\n  a: {address: orin, password: x}", "no passwords or keys"),
        ("schema: 1\ndevices:\n  a: {address: orin, pyhton: x}", "did you mean python"),
        ("schema: 1\ndevices:\n  a: {address: '-oProxyCommand=x'}", "no address of a device"),
        ("schema: 1\ndevices:\n  a: {address: x}\n  a: {address: y}", "more than once"),
    ],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "devices.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        read_devices(tmp_path / "devices.yaml")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--run", "x"], "no device is named"), (["run", "a", "--all", "--run", "x"], "named, or all are meant"),
        (["run", "bnech1", "--run", "x"], "did you mean bench1"), (["remove", "c"], "there is no such device"),
        (["add", "c", "user@host;id"], "no address of a device"), (["stop", "--run", "x"], "no device is named"),
        (["run", "bench1", "--run", "x", "--timeout", "build"], "STEP=MINUTES"),
        (["run", "bench1", "--run", "x", "--timeout", "biuld=3"], "STEP=MINUTES"),
        (["run", "bench1", "--run", "x"], "there is no run x"),
    ],
)  # fmt: skip
def test_wrong_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_devices(Path("devices.yaml"), {"bench1": make_device("bench1", "user@host")})
    assert main(["device", *arguments]) == WRONG_INPUT
    assert message in capsys.readouterr().err


def test_without_devices_there_is_nothing_to_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["device", "list"]) == DONE
    assert "t2t-edge device add" in capsys.readouterr().out
