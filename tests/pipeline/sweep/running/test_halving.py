"""Successive halving: what a training's file says, how long each goes on in any case, and what stays stopped."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.sweep.running import halving
from pipeline.sweep.running.halving import rungs, scores_of, stopped_before
from pipeline.sweep.running.node import Job

HEADER = "epoch,lr,train_loss,val_top1,ema_top1,images_per_s,seconds,skipped\n"


def test_scores_are_those_of_the_weights_that_are_kept(tmp_path: Path) -> None:
    work = tmp_path / ".train.partial"
    work.mkdir()
    assert list(scores_of(tmp_path)) == []
    (work / "metrics.csv").write_text(f"{HEADER}1,0.1,2.0,,,9,1,0\n2,0.1,1.5,40.0,42.5,9,1,0\n3,0.1,1.0,50.0,,9,1,0\n")
    assert list(scores_of(tmp_path)) == [(2, 42.5), (3, 50.0)]
    (tmp_path / "train").mkdir()
    work.rename(tmp_path / "train" / "gone")
    (tmp_path / "train" / "metrics.csv").write_text(f"{HEADER}1,0.1,2.0,30.0,,9,1,0\n")
    assert list(scores_of(tmp_path)) == [(1, 30.0)]


def test_the_last_epoch_is_told_when_the_weights_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before, Ray would end the process that writes them: the best training was lost."""
    tune = pytest.importorskip("ray.tune")
    written = threading.Event()
    told: list[dict[str, Any]] = []
    looks = 0

    def look(run_folder: Path) -> Any:
        nonlocal looks
        looks += 1
        return scores_of(run_folder)

    def train(job: Job) -> None:
        work = tmp_path / ".train.partial"
        work.mkdir()
        (work / "metrics.csv").write_text(
            f"{HEADER}1,0.1,2.0,30.0,,9,1,0\n2,0.1,1.5,40.0,,9,1,0\n3,0.1,1.0,50.0,,9,1,0\n"
        )
        begun = looks
        while looks < begun + 5:  # while the weights are being written
            time.sleep(0.001)
        written.set()

    def report(metrics: dict[str, Any]) -> None:
        told.append(metrics | {"written": written.is_set()})

    monkeypatch.setattr(halving, "run_node", train)
    monkeypatch.setattr(halving, "scores_of", look)
    monkeypatch.setattr(halving, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(tune, "report", report)
    job = Job("a", "train", tmp_path / "a.yaml", tmp_path, tmp_path, 1, None)
    halving._trial({"key": "a"}, {"a": job}, ["a"], {"a": 3})
    assert [(row["epoch"], row["finished"], row["written"]) for row in told] == [
        (1, False, False), (2, False, False), (3, True, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [([90, 90], [1, 1], (90, 10)), ([4, 2], [1, 1], (4, 1)), ([10], [5], (10, 5)), ([2], [5], (2, 2))],
)
def test_rungs(epochs: list[int], every: list[int], expected: tuple[int, int]) -> None:
    assert rungs(epochs, every) == expected


def test_what_was_stopped_is_read_again(tmp_path: Path) -> None:
    assert stopped_before(tmp_path) == {}
    (tmp_path / "halving.json").write_text(json.dumps({"key": "stopped after 3 epochs"}))
    found = stopped_before(tmp_path)["key"]
    assert (found.status, found.stage, found.reason) == ("stopped", "train", "stopped after 3 epochs")
