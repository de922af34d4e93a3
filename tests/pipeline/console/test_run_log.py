"""`log.txt` of a run holds what was printed; without it the run goes on."""

import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from chain_run import copy_run

from calib.errors import InputError
from pipeline import stages
from pipeline.cli import main
from pipeline.console import run_log as module
from pipeline.console.exit_status import DONE, FAILED, WRONG_INPUT
from pipeline.console.progress import track
from pipeline.console.run_log import MOST_BYTES, run_log
from pipeline.console.version import our_version

Printed = pytest.CaptureFixture[str]
HEADER = re.compile(r"=== \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, t2t-edge (\S+): (.*)")


@pytest.fixture
def log(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log, still to be written, of a copy of the finished run, beside which the commands run."""
    folder = copy_run(tiny_run, tmp_path / "work")
    monkeypatch.chdir(folder)
    path = folder / "runs" / "demo" / "log.txt"
    path.unlink()
    return path


def test_a_whole_run(tiny_run: Path) -> None:
    first, *lines = (tiny_run / "runs" / "demo" / "log.txt").read_text().splitlines()
    header = HEADER.fullmatch(first)
    assert header and header[1] == our_version() and header[2] == "t2t-edge run"
    text = "\n".join(lines)
    for name in ("train", "export", "calibrate", "quantize", "build", "evaluate", "visualize", "benchmark", "report"):
        assert f"{name:>9}: running" in text and f"{name:>9}: done in " in text
    assert "epoch 1/1  loss " in text and "onnxruntime-int8" in text and "\x1b" not in text


def test_the_log_is_what_was_printed(log: Path, capsys: Printed) -> None:
    """Each command under its own header, up to the last line; nothing else is in the log, and nothing else printed."""
    assert main(["run", "--recipe", "recipes/demo.yaml", "--run", "demo"]) == DONE
    printed = capsys.readouterr()
    header, lines = log.read_text().split("\n", 1)
    assert header.endswith(": t2t-edge run --recipe recipes/demo.yaml --run demo")
    assert lines == printed.out and printed.out.count("unchanged") >= 9 and printed.err == ""
    assert main(["quantize", "--explain"]) == DONE
    again = log.read_text().removeprefix(f"{header}\n{lines}\n")
    header, lines = again.split("\n", 1)
    assert header.endswith(": t2t-edge quantize --explain") and lines == capsys.readouterr().out


def test_json_is_untouched(log: Path, capsys: Printed) -> None:
    assert main(["benchmark", "--json"]) == DONE
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert printed.out == json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    assert log.read_text().split("\n", 1)[1] == printed.err != ""


@pytest.mark.parametrize("arguments", [["run", "--dry-run"], ["doctor"], ["report", "--compare", "runs/demo"]])
def test_no_log_of_what_makes_no_run(log: Path, arguments: list[str]) -> None:
    main(arguments)
    assert not log.exists()


def test_only_rank_0_writes(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["train"]) == DONE and not log.exists()
    monkeypatch.setenv("RANK", "0")
    assert main(["train"]) == DONE and log.exists()


def test_an_error_is_its_end(log: Path, capsys: Printed) -> None:
    shutil.rmtree("images/val")
    assert main(["train"]) == WRONG_INPUT
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and log.read_text().endswith(printed)


def test_ctrl_c_is_its_end(log: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        print("a line", end="")
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "run_stage", interrupted)
    assert main(["train"]) == FAILED
    printed = capsys.readouterr()
    assert printed.out.endswith("\na line") and printed.err.startswith("interrupted: ")
    assert sorted(log.read_text().splitlines()[1:]) == sorted([*printed.out.splitlines(), printed.err.rstrip()])


def test_a_bug_is_its_end(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python prints where it was only after the command."""
    monkeypatch.setenv("T2T_EDGE_TRACEBACK", "1")
    shutil.rmtree("images/val")
    before = sys.stdout, sys.stderr
    with pytest.raises(InputError) as caught:
        main(["train"])
    assert "Traceback (most recent call last)" in log.read_text() and str(caught.value) in log.read_text()
    assert (sys.stdout, sys.stderr) == before


def test_a_log_that_cannot_be_opened(log: Path, capsys: Printed) -> None:
    log.mkdir()
    assert main(["run"]) == DONE
    printed = capsys.readouterr()
    assert printed.err.strip() == "what is printed is not kept in a log: runs/demo/log.txt: Is a directory"
    assert "Next: t2t-edge predict" in printed.out


def test_a_log_that_cannot_be_written_any_more(tmp_path: Path, capsys: Printed) -> None:
    with run_log(["run"]) as log:
        log.begin(tmp_path)
        print("kept")
        assert log._file is not None
        log._file.close()
        log._file = Path("/dev/full").open("a")  # noqa: SIM115  # as a full disk
        print("first lost")
        print("lost")
    printed = capsys.readouterr()
    assert printed.out == "kept\nfirst lost\nlost\n"
    assert printed.err.strip() == "what is printed is not kept in a log: log.txt: No space left on device"
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == ["kept"]


@pytest.mark.parametrize("size", [MOST_BYTES, MOST_BYTES + 1, 3 * MOST_BYTES])
def test_it_does_not_grow_without_bound(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log.txt"
    line = "what was printed long ago\n"
    text = (line * (size // len(line) + 1))[-size:]
    path.write_text(text)
    with run_log(["run"]) as log:
        log.begin(tmp_path)
        print("new")
    *old, blank, header, new = path.read_text().splitlines()
    assert (blank, new) == ("", "new") and HEADER.fullmatch(header)
    if size == MOST_BYTES:
        assert old == text.splitlines()
    else:
        assert set(old) == {line.rstrip()} and MOST_BYTES / 2 - len(line) <= len(old) * len(line) <= MOST_BYTES / 2
    assert [found.name for found in tmp_path.iterdir()] == ["log.txt"]


def test_a_line_without_an_end_does_not_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    (tmp_path / "log.txt").write_text("x" * 200)
    with run_log(["run"]) as log:
        log.begin(tmp_path)
    assert HEADER.fullmatch((tmp_path / "log.txt").read_text().rstrip("\n"))


class Terminal(io.StringIO):
    """A stream that bars take for a terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_are_shown_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with run_log(["run"]) as log:
        log.begin(tmp_path)
        for index in track(range(3), "images"):
            print(f"image {index}")
            print(f"problem {index}", file=sys.stderr)
        print("end")
    assert sys.stdout is terminal
    assert "\x1b[2K" in terminal.getvalue() and "━━━" in terminal.getvalue()
    lines = [line for index in range(3) for line in (f"image {index}", f"problem {index}")]
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == [*lines, "end"]
