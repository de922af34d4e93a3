"""Loopback devices, and a run whose bundle plays back what a real one left."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import Bench, Loopback, add, why_not
from once import Once
from played import write_played_run

from pipeline.cli import main

Device = Callable[..., int]


@pytest.fixture(scope="session")
def played_run(bundled_run: Path, once: Once) -> Path:
    """A folder with `runs/small`; see `played`."""
    return once("played", lambda folder: write_played_run(folder, bundled_run))


@pytest.fixture
def bench(tmp_path: Path, bare_python: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Where devices are added; the working directory is one of its own, and `ssh` uses the bench's keys."""
    if reason := why_not():
        pytest.skip(reason)
    bench = Bench(tmp_path / "bench", bare_python)
    monkeypatch.setenv("PATH", f"{bench.folder / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield bench
    bench.close()


@pytest.fixture
def a(bench: Bench) -> Loopback:
    """The device `a`, in devices.yaml."""
    return add(bench, "a")


@pytest.fixture
def device(played_run: Path, tmp_path: Path) -> Device:
    """`device("run", "a")`: the command for a copy of the played run, in `runs`; returns the exit status."""
    shutil.copytree(played_run / "runs", tmp_path / "here" / "runs", dirs_exist_ok=True)

    def call(action: str, *arguments: str) -> int:
        return main(["device", action, *arguments, "--run", "small"])

    return call
