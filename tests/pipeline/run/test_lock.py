"""One process at a time writes a run: who holds it is said, and what a dead process left is told apart."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import filelock
import pytest

from calib.errors import InputError
from export.engines.sidecar import LOCK_NOTE
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.run import lock
from pipeline.run.lock import LOCK, hold

FORK = multiprocessing.get_context("fork")


def keep(folder: Path, ready: Path, left: bool) -> None:
    """Hold the lock until this process is killed; with `left`, a child of its own shares it and outlives it."""
    with hold(folder, "t2t-edge train --run demo"):
        if left:
            share(folder)
        ready.write_text(str(os.getpid()))
        time.sleep(60)


def share(folder: Path) -> None:
    """A child that has the lock's file open for itself, as forked processes have with older versions of filelock."""
    found = [int(open_file.name) for open_file in Path("/proc/self/fd").iterdir() if is_lock(open_file, folder)]
    os.dup(found[0])
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)


def is_lock(open_file: Path, folder: Path) -> bool:
    """Whether an entry of /proc/PID/fd is the lock of a run."""
    try:
        return open_file.readlink() == (folder / LOCK).resolve()
    except OSError:
        return False


@contextmanager
def holder(folder: Path, left: bool = False) -> Iterator[BaseProcess]:
    """Another process that holds the lock of `folder`."""
    ready = folder.parent / "ready"
    process = FORK.Process(target=keep, args=(folder, ready, left))
    process.start()
    while not (ready.is_file() and ready.read_text()):
        time.sleep(0.01)
    try:
        yield process
    finally:
        process.kill()
        process.join()
        ready.unlink()


def test_a_second_process_is_refused_and_told_which_the_first_is(tmp_path: Path) -> None:
    with holder(tmp_path / "demo") as process, pytest.raises(InputError) as caught, hold(tmp_path / "demo", "second"):
        pytest.fail("both hold it")
    message, pid = str(caught.value), process.pid
    for text in (
        "another process is writing this run",
        f"process {pid}, since 20",
        "t2t-edge train --run demo",
        f"kill {pid}",
    ):
        assert text in message
    with hold(tmp_path / "demo", "third"):  # the first was killed: its lock went with it
        assert json.loads((tmp_path / "demo" / LOCK_NOTE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "demo" / LOCK_NOTE).exists()


def test_the_note_of_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with holder(folder) as process:
        process.kill()
    assert json.loads((folder / LOCK_NOTE).read_text())["pid"] == process.pid
    with hold(folder, "next"):
        assert json.loads((folder / LOCK_NOTE).read_text())["command"] == "next"


def test_what_a_dead_process_left_running_is_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that it had started share its lock, such as those that load images."""
    folder = tmp_path / "demo"
    monkeypatch.setattr(lock, "_LEFT_SECONDS", 0.3)
    with holder(folder, left=True) as process:
        process.kill()
        process.join()
        with pytest.raises(InputError) as caught, hold(folder, "next"):
            pytest.fail("both hold it")
        assert f"waiting for what process {process.pid}, which has ended, left running" in capfd.readouterr().out
        message = str(caught.value)
        assert "held by what a dead process has left running" in message and f"fuser -v '{folder / LOCK}'" in message
        monkeypatch.setattr(lock, "_LEFT_SECONDS", 30)
        threading.Timer(0.2, end_others, (folder,)).start()
        with hold(folder, "next"):
            assert (folder / LOCK_NOTE).is_file()


def end_others(folder: Path) -> None:
    """Kill whatever else has the lock's file open."""
    for open_file in Path("/proc").glob("[0-9]*/fd/*"):
        pid = int(open_file.parts[2])
        if pid != os.getpid() and is_lock(open_file, folder):
            os.kill(pid, signal.SIGKILL)


def test_a_process_on_another_host_is_named_with_it(tmp_path: Path) -> None:
    """On a network's disk, nothing here can tell whether it is alive."""
    folder = tmp_path / "demo"
    folder.mkdir()
    note = {"pid": 4711, "host": "node7", "since": "2026-11-01T10:00:00+00:00", "command": "t2t-edge run"}
    (folder / LOCK_NOTE).write_text(json.dumps(note))
    held = filelock.FileLock(folder / LOCK, is_singleton=False)
    with held, pytest.raises(InputError) as caught, hold(folder, "second"):
        pytest.fail("both hold it")
    assert "process 4711 on the host node7, since 2026-11-01" in str(caught.value)
    assert "ssh node7 kill 4711" in str(caught.value)


@pytest.mark.parametrize("note", [None, "{", '{"pid": 1}'])
def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path, note: str | None) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    if note is not None:
        (folder / LOCK_NOTE).write_text(note)
    held = filelock.FileLock(folder / LOCK, is_singleton=False)
    with held, pytest.raises(InputError, match=r"(?s)has not said which it is.*fuser -v"), hold(folder, "second"):
        pytest.fail("both hold it")


def test_the_processes_of_torchrun_share_the_lock_of_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(tmp_path / "demo", "rank 0"):
        monkeypatch.setenv("RANK", "1")
        with hold(tmp_path / "demo", "rank 1"):
            assert json.loads((tmp_path / "demo" / LOCK_NOTE).read_text())["command"] == "rank 0"
        assert (tmp_path / "demo" / LOCK_NOTE).is_file()


def test_a_run_that_cannot_be_written_or_locked_needs_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(lock.os, "access", lambda *_: False)
        with hold(tmp_path / "read_only", "bundle"):
            assert not list((tmp_path / "read_only").iterdir())

    def unsupported(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    with hold(tmp_path / "network", "run"):
        pass
    said = capsys.readouterr().err
    assert "network cannot be locked (FileSystem does not appear to support flock)" in said
    assert "no other command writes it" in said


def test_on_a_full_disk_the_lock_holds_without_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `runs --prune` can make room."""
    note = tmp_path / "demo" / LOCK_NOTE
    note.parent.mkdir()
    note.write_text(
        json.dumps({"pid": 1, "host": "old", "since": "2026-01-01T00:00:00+00:00", "command": "an earlier one"})
    )

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock, "write_json", full)
    with hold(tmp_path / "demo", "runs --prune"):
        assert not note.exists(), "an earlier holder's note would name the wrong process"
        with (
            pytest.raises(InputError, match="a process that has not said which it is"),
            hold(tmp_path / "demo", "second"),
        ):
            pass


@pytest.mark.slow
def test_commands_that_write_need_the_lock_and_readers_none(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny_run)
    folder, note = tiny_run / "runs" / "demo", {"pid": os.getpid(), "host": socket.gethostname()}
    held = filelock.FileLock(folder / LOCK, is_singleton=False)
    with held:
        (folder / LOCK_NOTE).write_text(
            json.dumps(note | {"since": "2026-11-01T10:00:00+00:00", "command": "t2t-edge run"})
        )
        for command in ("run", "train", "report", "bundle"):
            assert main([command]) == WRONG_INPUT
            assert "another process is writing this run" in capsys.readouterr().err
        photo = str(next((tiny_run / "images" / "val").rglob("*.png")))
        for reader in (["run", "--dry-run"], ["predict", photo], ["runs"], ["report", "--compare", str(folder)]):
            assert main(reader) == DONE, capsys.readouterr().err
        (folder / LOCK_NOTE).unlink()
    assert main(["run"]) == DONE


def test_another_user_of_a_shared_folder_can_see_that_it_is_held(tmp_path: Path) -> None:
    """One who could not open the lock was warned, and wrote the run beside its holder."""
    before = os.umask(0o027)
    try:
        with hold(tmp_path / "demo", "run"):
            assert (tmp_path / "demo" / LOCK).stat().st_mode & 0o777 == 0o666
            assert (tmp_path / "demo" / LOCK_NOTE).is_file()
    finally:
        os.umask(before)
