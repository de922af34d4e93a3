"""Devices over SSH with the real thing: sshd on loopback, keys made here, three homes, killed connections, a full disk."""

import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from loopback import Bench, Loopback, add, end, ssh_processes

from pipeline.cli import main
from pipeline.console.exit_status import DONE, FAILED, WRONG_INPUT
from pipeline.devices import one_device
from pipeline.devices.one_device import STEPS

Device = Callable[..., int]
pytestmark = pytest.mark.slow
RUN = Path("runs/small")
_SECONDS = 60.0


def played(device: Loopback) -> list[str]:
    """The steps that the player was started for."""
    path = device.home / "played"
    return path.read_text().split() if path.exists() else []


def state(device: Loopback) -> dict[str, Any]:
    """The session's state; {} where there is none."""
    found = list(device.home.glob("t2t-edge/*/state.json"))
    return json.loads(found[0].read_text()) if found else {}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


class Client:
    """`t2t-edge` in a process of its own, with what it prints in a file."""

    def __init__(self, *arguments: str):
        self.log = Path(f"client-{random.getrandbits(32)}.log").absolute()
        self._process = multiprocessing.get_context("fork").Process(target=self._main, args=(arguments,))
        self._process.start()

    def _main(self, arguments: tuple[str, ...]) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        status = main(list(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def end(self, number: int) -> int | None:
        """Send a signal; returns the exit status."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)
        return self.wait()

    def wait(self) -> int | None:
        self._process.join(_SECONDS)
        return self._process.exitcode

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@contextmanager
def killing(times: int, kill: Callable[[int], bool], seed: int) -> Iterator[list[float]]:
    """Meanwhile kill so often, at random moments; `kill(index)` says whether there was something to kill."""
    generator, done, over = random.Random(seed), [], threading.Event()
    begin = time.monotonic()

    def run() -> None:
        while len(done) < times and not over.wait(generator.uniform(0.02, 0.5)):
            if kill(len(done)):
                done.append(time.monotonic() - begin)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def test_three_devices_end_in_one_page(bench: Bench, bundled_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real bundle, by rsync and as a tar stream; one device has numpy, OpenCV and ONNX Runtime alone."""
    shutil.copytree(bundled_run / "runs", "runs")
    c = add(bench, "c")
    bench.python = Path(sys.executable)
    a, b = add(bench, "a"), add(bench, "b", rsync=False)
    assert main(["device", "run", "a", "b", "c", "--run", "small", "--dry-run"]) == DONE
    assert "a | would send" in capsys.readouterr().out and not list(a.home.iterdir())
    assert main(["device", "run", "a", "b", "c", "--run", "small"]) == DONE
    printed = capsys.readouterr().out
    page = (RUN / "devices" / "devices.html").read_text(encoding="utf-8")
    for name in "abc":
        report = json.loads((RUN / "devices" / name / "report" / "report.json").read_text())
        assert {row["name"] for row in report["variants"]} == {"onnxruntime-fp32", "onnxruntime-int8"}
        assert {row["status"] for row in report["variants"]} == {"pass"}
        for precision in ("fp32", "int8"):
            assert f"{name} · onnxruntime · {precision}" in page
        assert f"{name} | onnxruntime-int8: built" in printed
    assert "a has no TensorRT that works" in printed and "python3-libnvinfer" in printed
    assert "the bundle is there, by rsync" in printed and "b | the bundle is there, by a tar stream" in printed
    assert "onnxruntime-fp32: pass" in (RUN / "devices" / "c" / "log.txt").read_text()
    image = str(next((RUN / "bundle" / "samples").iterdir()))
    assert main(["device", "predict", "c", "--run", "small", image]) == DONE
    assert "class_" in capsys.readouterr().out
    assert main(["device", "run", "c", "--run", "small", "--backend", "tensorrt"]) == FAILED
    error = capsys.readouterr().out
    assert "c has no TensorRT or other runtime" in error and "python3-libnvinfer" in error
    assert main(["report", "--compare", "runs/small/devices"]) == DONE
    assert main(["device", "remove", "b", "--clean"]) == DONE
    assert not (b.home / "t2t-edge").exists() and "b:" not in Path("devices.yaml").read_text() and c.home.exists()


def test_a_device_is_looked_at_before_it_is_added(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    device = bench.add("a")
    bench.check(device)
    assert main(["device", "add", "a", device.address]) == DONE
    printed = capsys.readouterr().out
    assert "ONNX Runtime: " in printed and "disk: " in printed and "memory: " in printed and "free" in printed
    assert Path("devices.yaml").read_text().splitlines()[1:] == [
        "schema: 1", "devices:", "  a:", f"    address: {device.address}",
    ]  # fmt: skip
    assert not list(device.home.iterdir()), "nothing is left there"
    end(device.server)
    assert main(["device", "list", "--json"]) == FAILED
    found = json.loads(capsys.readouterr().out)["devices"][0]
    assert not found["reachable"] and found["error"]["what"] == "a cannot be reached"
    assert main(["device", "add", "b", device.address]) == WRONG_INPUT
    assert "--unchecked" in capsys.readouterr().err and "b:" not in Path("devices.yaml").read_text()


def test_ten_killed_connections_cost_nothing(
    bench: Bench, device: Device, played_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 of the client and of the server's side in turn, from the first file that is sent to the last that is fetched."""
    devices = [add(bench, name, rsync=name != "b") for name in ("a", "b", "c")]
    for one in devices:
        one.set_up(PAUSE="2")

    def kill(index: int) -> bool:
        running = ssh_processes(bench) if index % 2 else [pid for one in devices for pid in one.children()]
        if not running:
            return False
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return True

    # the first connection to a device is a plain one: who cannot reach it is told at once
    assert main(["device", "stop", "--all", "--run", "small"]) == DONE
    with killing(10, kill, seed=1) as done:
        status = -1
        while status != DONE:  # the very first question may be hit, which is a device that cannot be reached
            status = device("run", "--all")
    assert len(done) == 10
    assert main(["device", "run", "a", "--run", "small", "--dry-run"]) == DONE
    for one in devices:
        assert (RUN / "devices" / one.name / "report" / "report.json").is_file()
        assert len(played(one)) in (4, 8), "no step was started twice by an attempt"
    assert (RUN / "devices" / "devices.html").is_file()


def test_the_same_command_attaches_again(a: Loopback, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    """After kill -9 of the program, and after the run has ended without anybody there."""
    a.set_up(PAUSE="0.6")
    for moment in ("playing evaluate", "playing benchmark"):
        client = Client("device", "run", "a", "--run", "small")
        wait_for(lambda client=client, moment=moment: moment in client.text)  # type: ignore[misc]
        assert client.end(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: state(a)["phase"] == "ended")
    assert not (RUN / "devices" / "a").exists()
    assert device("run", "a") == DONE
    printed = capsys.readouterr().out
    assert "a | attached to the run of" in printed and "a | playing build" in printed
    assert played(a) == list(STEPS) and (RUN / "devices" / "a" / "report" / "report.json").is_file()
    assert state(a)["collected"]
    assert device("logs", "a") == DONE
    assert "a | playing report" in capsys.readouterr().out


def test_a_connection_that_does_not_come_back(bench: Bench, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    a = add(bench, "a")
    a.set_up(PAUSE="20")

    def cut() -> None:
        wait_for(lambda: "build" in played(a))
        children = a.children()
        end(a.server)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=cut)
    thread.start()
    status = device("run", "a", "--patience", "0.05")
    thread.join()
    printed = capsys.readouterr().out
    assert (
        status == FAILED and "the connection to a is lost" in printed and "the same command attaches again" in printed
    )
    assert state(a)["phase"] == "running"


def test_ctrl_c_leaves_it_running_and_says_how_to_stop_it(
    a: Loopback, bench: Bench, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    a.set_up(PAUSE="20")
    client = Client("device", "run", "a", "--run", "small")
    wait_for(lambda: "build goes on" in client.text)
    assert client.end(signal.SIGINT) == FAILED
    assert "t2t-edge device stop a --run small" in client.text and "attach again: t2t-edge device run a" in client.text
    wait_for(lambda: not ssh_processes(bench))
    assert state(a)["phase"] == "running"
    assert device("stop", "a") == DONE
    assert "a | stopped" in capsys.readouterr().out
    assert (state(a)["phase"], state(a)["problem"]["kind"]) == ("ended", "stopped")
    assert device("stop", "a") == DONE
    assert "nothing of the run small was running" in capsys.readouterr().out
    assert device("run", "a") == FAILED
    assert "the run on a was stopped" in capsys.readouterr().out
    a.set_up(PAUSE="0")
    assert device("run", "a") == DONE


def test_a_device_is_busy_with_somebody_else_s_run(
    a: Loopback, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another checkout of the same run, and a lock of a second user."""
    a.set_up(PAUSE="20")
    shutil.copytree("runs", "others")
    client = Client("device", "run", "a", "--run", "small", "--runs", "others")
    wait_for(lambda: "build goes on" in client.text)
    assert device("run", "a") == FAILED
    printed = capsys.readouterr().out
    assert "a is busy with another run" in printed and f"@{os.uname().nodename}: run small, since" in printed
    assert main(["device", "stop", "a", "--run", "small", "--runs", "others"]) == DONE
    assert client.wait() == FAILED and "the run on a was stopped" in client.text
    with a.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        json.dump({"owner": "bob@lab", "run": "emoji", "since": "2026-01-01 12:00 UTC", "token": "b"}, lock)
        lock.flush()
        assert device("run", "a") == FAILED
    printed = capsys.readouterr().out
    assert "got: bob@lab: run emoji, since 2026-01-01 12:00 UTC" in printed and "ask bob@lab" in printed
    assert played(a) == ["build"]


def test_host_keys_are_never_accepted(bench: Bench, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = add(bench, "a"), bench.add("b", known=False)
    before = (bench.folder / "known_hosts").read_text()
    assert main(["device", "add", "b", b.address]) == WRONG_INPUT
    error = capsys.readouterr().err
    assert "the host key of b is not known to you" in error and f"ssh -p {b.port}" in error and "answer yes" in error
    bench.change_key(a)
    assert device("run", "a") == WRONG_INPUT
    printed = capsys.readouterr().out
    assert "the host key of a is another one than before" in printed
    assert f"ssh-keygen -R '[127.0.0.1]:{a.port}'" in printed
    assert (bench.folder / "known_hosts").read_text() == before and not list(a.home.iterdir())


def test_who_is_not_let_in_is_told(
    a: Loopback, bench: Bench, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    (bench.folder / "authorized_keys").write_text("")
    assert device("run", "a") == WRONG_INPUT
    printed = capsys.readouterr().out
    assert "a does not let you in" in printed and "ssh-copy-id" in printed and "Permission denied" in printed


def test_one_that_fails_does_not_stop_the_others(
    bench: Bench, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    a, gone = add(bench, "a"), add(bench, "gone")
    end(gone.server)
    assert device("run", "a", "gone") == FAILED
    captured = capsys.readouterr()
    assert "gone | error: gone cannot be reached" in captured.out and "failed: gone cannot be reached" in captured.err
    assert played(a) == list(STEPS) and (RUN / "devices" / "devices.html").is_file()


def test_a_report_that_was_changed_on_its_way_is_refused(
    a: Loopback, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    a.set_up(PAUSE="0.3")
    client = Client("device", "run", "a", "--run", "small")
    wait_for(lambda: "playing evaluate" in client.text)
    client.end(signal.SIGKILL)
    wait_for(lambda: state(a)["phase"] == "ended")
    (report,) = a.home.glob("t2t-edge/*/work/report/report.json")
    report.write_text(report.read_text().replace('"top1": 75.0', '"top1": 99.0'))
    assert device("run", "a") == WRONG_INPUT
    printed = capsys.readouterr().out
    assert "what came back from a is refused" in printed and "report/report.json is not what the run wrote" in printed
    assert not (RUN / "devices" / "a").exists()


CLAIM = """
if step == "report":
    for name in ("evaluation.json", "report/report.json"):
        values = json.loads((work / name).read_text())
        for row in values["variants"]:
            row |= {"top1": 91.0, "delta_top1_pp": 16.0}
        (work / name).write_text(json.dumps(values))
"""
LIES = {
    "its evaluation is not that of its logits: evaluation.variants[0].top1 is 91.0": CLAIM,
    "this is not a report": 'step == "report" and put("report/report.json", schema=7)',
    "the engines were built from another bundle": 'step == "report" and put("build/engines.json", bundle="x")',
    "there are no logits": 'step == "report" and __import__("numpy").savez(work / "logits.npz")',
}  # fmt: skip


@pytest.mark.parametrize("message", LIES)
def test_a_device_cannot_claim_what_its_logits_do_not_give(
    a: Loopback, device: Device, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    """The hashes are right, as the device wrote them so."""
    a.set_up(LIE=LIES[message])
    assert device("run", "a") == WRONG_INPUT
    printed = capsys.readouterr().out
    assert "what came back from a is refused" in printed and message in printed
    assert not (RUN / "devices" / "a" / "report").exists()


def test_a_killed_build_is_named(a: Loopback, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    a.set_up(PLAY='print("onnxruntime-int8: building", flush=True); os.kill(os.getpid(), 9)')
    assert device("run", "a") == FAILED
    printed = capsys.readouterr().out
    assert "a is out of memory: the build of onnxruntime-int8 was killed" in printed and "workspace_mib" in printed
    assert "onnxruntime-int8: building" in (RUN / "devices" / "a" / "log.txt").read_text()


def test_a_step_that_takes_too_long_is_ended(a: Loopback, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    a.set_up(PAUSE="30")
    assert device("run", "a", "--timeout", "build=0.01") == FAILED
    printed = capsys.readouterr().out
    assert "build on a took longer than allowed" in printed and "--timeout build=" in printed


def test_another_python_is_named(a: Loopback, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    old = a.folder / "old"
    old.mkdir()
    (old / "sitecustomize.py").write_text('import sys\nsys.version_info = (3, 8, 10, "final", 0)\n')
    a.set_up(PYTHONPATH=str(old))
    assert device("run", "a") == WRONG_INPUT
    printed = capsys.readouterr().out
    assert (
        "a has another Python than is needed" in printed
        and "Python 3.8.10" in printed
        and "--python python3.10" in printed
    )
    (a.folder / "bin" / "python3").unlink()
    assert device("run", "a") == WRONG_INPUT
    assert "python3: not found" in capsys.readouterr().out


def test_a_wrong_clock_is_said_once(
    a: Loopback, device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(one_device, "now", lambda: time.time() + 12000)
    assert device("run", "a") == DONE
    printed = capsys.readouterr().out
    assert printed.count("the clock of a is wrong") == 1 and "3 h 20 min behind" in printed and "set-ntp" in printed


def test_answers_that_make_no_sense_do_not_stop_the_others(
    bench: Bench, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = add(bench, "a"), add(bench, "b")
    mark = r"\\036t2t-edge [7]\\n"
    (b.folder / "bin" / "python3").write_text(f'#!/bin/sh\nprintf "{mark}"\n')
    assert device("run", "a", "b") == FAILED
    captured = capsys.readouterr()
    assert "failed: what b answers makes no sense" in captured.err and played(a) == list(STEPS)


def test_what_a_login_prints_is_no_answer(a: Loopback, device: Device) -> None:
    login = a.folder / "login"
    login.write_text(login.read_text().replace("cd ", "echo welcome to a; echo; cd "))
    (a.folder / "bin" / "rsync").unlink()
    assert device("run", "a") == DONE


@pytest.fixture
def small_disk(a: Loopback) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system as the device's home."""
    mounted = []

    def mount(size: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(a.home)], capture_output=True, text=True, check=False
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
        mounted.append(a.home)
        return a.home

    yield mount
    for home in mounted:
        subprocess.run(["umount", "-l", str(home)], check=True)


def test_a_disk_that_would_run_full(
    small_disk: Callable[[str], Path], device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    small_disk("2m")
    assert device("run", "a") == FAILED
    printed = capsys.readouterr().out
    assert "the disk of a is full" in printed and "MB are needed" in printed and "du -xh" in printed


def test_a_disk_that_runs_full(
    small_disk: Callable[[str], Path], a: Loopback, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the run, down to the last byte: the state still says so."""
    small_disk("16m")
    a.set_up(PLAY='step == "evaluate" and open(pathlib.Path.home() / "big", "wb").write(bytes(1 << 25))')
    assert device("run", "a") == FAILED
    printed = capsys.readouterr().out
    assert "the disk of a is full" in printed and "evaluate" in printed
    (a.home / "big").unlink()
    a.set_up(PLAY="")
    assert device("run", "a") == DONE
