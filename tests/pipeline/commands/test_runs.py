"""`t2t-edge runs`: what there is, what is kept aside, and what --prune removes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import read_artifact, write_manifest
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.run.identity import Identity
from pipeline.run.kept import put_aside, put_in_place

Printed = pytest.CaptureFixture[str]


def finish(run: Path, stage: str, value: int) -> Path:
    """A result of `stage` in `run`: a file of 1,000 bytes."""
    folder = run / stage
    folder.mkdir(parents=True)
    (folder / "output.bin").write_bytes(bytes([value]) * 1000)
    identity = Identity(stage, False, {"value": value}, {}, {}, {}, "", {})
    write_manifest(folder, identity.recorded(), notes={}, seconds=1.0)
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs: `demo` keeps two results of train and an interrupted training, `plain` keeps nothing."""
    monkeypatch.chdir(tmp_path)
    for value in range(3):
        put_aside(finish(tmp_path / "runs" / "demo", "train", value))
    kept = sorted((tmp_path / "runs/demo/.kept/train").iterdir())
    kept[0].rename(tmp_path / "runs/demo/train")
    work = tmp_path / "runs/demo/.train.partial.0123abcd"
    work.mkdir()
    (work / "last.pt").write_bytes(b"x" * 500)
    finish(tmp_path / "runs" / "plain", "export", 7)
    (tmp_path / "runs" / "compare").mkdir()
    return tmp_path / "runs"


def asked(printed: Printed, *arguments: str, status: int = DONE) -> tuple[str, str]:
    printed.readouterr()
    assert main(["runs", *arguments]) == status
    return printed.readouterr()


def document(printed: Printed, *arguments: str) -> dict[str, Any]:
    return dict(json.loads(asked(printed, "--json", *arguments)[0]))


def test_runs_are_listed_with_size_age_and_what_is_kept(runs: Path, capsys: Printed) -> None:
    lines = asked(capsys)[0].splitlines()
    assert [line.split()[0] for line in lines] == ["demo", "kept:", "kept:", "kept:", "plain", "0.0"]
    assert "complete: train" in lines[0] and " s old" in lines[0]
    assert sum("train, finished" in line for line in lines) == 2 and "train, interrupted, 0.0 MB" in lines[3]
    assert "in 3 folders of earlier results" in lines[-1] and lines[-1].endswith("next: t2t-edge runs --prune")
    demo, plain = document(capsys)["runs"]
    assert (demo["name"], demo["stages"], plain["name"], plain["kept"]) == ("demo", ["train"], "plain", [])
    assert min(row["bytes"] for row in demo["kept"][:2]) > 1000 and demo["kept"][2]["bytes"] == 500
    assert demo["bytes"] > sum(row["bytes"] for row in demo["kept"]) + 1000
    assert [row["finished"] is None for row in demo["kept"]] == [False, False, True]


def test_prune_names_all_and_asks(runs: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    current = (runs / "demo/train/output.bin").read_bytes()
    before = sorted(path for path in runs.rglob("*"))
    error = asked(capsys, "--prune", status=WRONG_INPUT)[1]
    assert "nobody can be asked whether to remove it" in error and "t2t-edge runs --prune --yes" in error
    said = asked(capsys, "--prune", "--runs", f"{runs}/../runs", status=WRONG_INPUT)[1]
    assert f"next: t2t-edge runs --runs {runs}/../runs --prune --yes" in said, (
        "in runs it would remove what was not shown"
    )
    assert sorted(path for path in runs.rglob("*") if not path.name.startswith(".lock")) == before
    answers = iter(["n\n", "y\n"])
    monkeypatch.setattr(sys, "stdin", Answers(answers))
    assert "nothing was removed" in asked(capsys, "--prune")[0]
    said = asked(capsys, "--prune")[0]
    kept = [line for line in said.splitlines() if "kept:" in line]
    assert len(kept) == 3 and all(str(runs.name) in line for line in kept)
    assert "remove 0.0 MB in 3 folders, the ones named above? [y/N] removed: 0.0 MB in 3 folders" in said
    assert (runs / "demo/train/output.bin").read_bytes() == current and (runs / "plain/export").is_dir()
    assert not (runs / "demo/.kept").exists() and not list((runs / "demo").glob(".train*"))
    assert "nothing is kept" in asked(capsys, "--prune")[0]


class Answers:
    """A terminal on which somebody answers."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return str(next(self.answers))


def test_prune_without_asking(runs: Path, capsys: Printed) -> None:
    removed = document(capsys, "--prune", "--yes")["removed"]
    assert len(removed) == 3 and all(not Path(place).exists() for place in removed)
    assert document(capsys)["runs"][0]["kept"] == []


def test_a_damaged_result_is_said_to_be(runs: Path, capsys: Printed) -> None:
    place = next((runs / "demo/.kept/train").iterdir())
    (place / "output.bin").write_bytes(b"short")
    assert sum(", damaged," in line for line in asked(capsys)[0].splitlines()) == 1


def test_no_runs(tmp_path: Path, capsys: Printed) -> None:
    assert "no runs in" in asked(capsys, "--runs", str(tmp_path / "none"))[0]
    assert document(capsys, "--runs", str(tmp_path))["runs"] == []


def test_what_was_not_named_is_not_removed(runs: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """While --prune asks, another command takes a result back and puts the current one in its place."""
    kept = sorted((runs / "demo/.kept/train").iterdir())

    class Slow(Answers):
        def readline(self) -> str:
            put_in_place(kept[0], runs / "demo/train")
            return super().readline()

    monkeypatch.setattr(sys, "stdin", Slow(iter(["y\n"])))
    said = asked(capsys, "--prune")[0]
    assert "removed: 0.0 MB in 2 folders\n1 folder left: no longer what was named above" in said
    (aside,) = (runs / "demo/.kept/train").iterdir()
    assert aside not in kept and (runs / "demo/train/output.bin").is_file()


def test_a_run_that_cannot_be_read_hides_no_other(runs: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.run import inventory

    def another_users(folder: Path) -> Any:
        if folder.parent.name == "demo":
            raise PermissionError(13, "Permission denied", str(folder / "manifest.json"))
        return read_artifact(folder)

    monkeypatch.setattr(inventory, "read_artifact", another_users)
    first, second = asked(capsys)[0].splitlines()
    assert "demo" in first and first.endswith("/manifest.json: Permission denied")
    assert second.startswith("plain") and "complete: export" in second
    assert "Permission denied" in document(capsys)["runs"][0]["problem"]


def test_other_files_among_the_kept_are_no_results(runs: Path, capsys: Printed) -> None:
    (runs / "demo/.kept/notes.txt").write_text("mine")
    (runs / "demo/.kept/train/notes.txt").write_text("mine")
    (runs / "demo/.train.partial.txt").write_text("mine")
    (runs / "notes.txt").write_text("mine")
    (runs / "gone").symlink_to("nowhere")
    assert len(document(capsys, "--prune", "--yes")["removed"]) == 3
    assert (runs / "demo/.kept/train/notes.txt").is_file()
