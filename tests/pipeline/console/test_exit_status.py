"""What a command raises becomes one message and a status."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.console.exit_status import FAILED, exit_status


def refused(number: int, *names: str | bytes | int | None) -> OSError:
    first, second = (*names, None, None)[:2]
    return OSError(number, os.strerror(number), first, None, second)


def fail(error: Exception) -> int:
    def command() -> int:
        raise error

    return exit_status(command, "interrupted")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(errno.EACCES, "runs/demo"), "error: runs/demo: Permission denied\n"),
        (refused(errno.ENOTDIR, b"runs/demo"), "error: runs/demo: Not a directory\n"),
        (refused(errno.EXDEV, "a", "b"), "error: a -> b: Invalid cross-device link\n"),
        (refused(errno.EIO), "error: the system: Input/output error\n"),
        (refused(errno.ENOSPC, "a"), "error: the disk is full\n"),
    ],
)
def test_what_the_system_refuses_is_one_message(
    error: OSError, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(error) == FAILED
    printed = capsys.readouterr().err
    assert printed.startswith(message) and "\n  next: " in printed


def test_an_error_of_no_file_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="a bug"):
        fail(OSError("a bug"))
    monkeypatch.setenv("T2T_EDGE_TRACEBACK", "1")
    with pytest.raises(PermissionError):
        fail(refused(errno.EACCES, "runs"))


def test_runs_that_are_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runs"
    file.write_text("no folder")
    root = Path(__file__).parents[3]
    assert main(["train", "--recipe", str(root / "recipes" / "demo.yaml"), "--runs", str(file)]) == FAILED
    assert f"error: {file}/demo" in capsys.readouterr().err
