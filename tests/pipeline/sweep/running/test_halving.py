"""Successive halving: what a training's file says, how long each goes on in any case, and what stays stopped."""

import json
from pathlib import Path

import pytest

from pipeline.sweep.running.halving import rungs, scores_of, stopped_before

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
