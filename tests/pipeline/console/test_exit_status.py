"""What a command raises becomes one message and a status."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.console.exit_status import FAILED, WRONG_INPUT, exit_status

ROOT = Path(__file__).parents[3]


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


def test_a_device_is_told_which_packages_a_host_has() -> None:
    """Where only what predicting needs is installed, the other commands say what to install."""
    program = "import sys; sys.modules['torch'] = None; from pipeline.cli import main; sys.exit(main(['run']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == WRONG_INPUT
    assert "is not installed\n  got: no torch in" in done.stderr and "\n  next: pip install -e '.[host]'" in done.stderr


def test_our_own_missing_module_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError):
        fail(ModuleNotFoundError("No module named 'pipeline.gone'", name="pipeline.gone"))


def test_runs_that_are_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runs"
    file.write_text("no folder")
    assert main(["train", "--recipe", str(ROOT / "recipes" / "demo.yaml"), "--runs", str(file)]) == FAILED
    assert f"error: {file}/demo" in capsys.readouterr().err
