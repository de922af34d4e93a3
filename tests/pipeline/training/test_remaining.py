"""When a training will be done: said once after the first updates, and again where an evaluation changes it."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import PLAIN, folder, recipe, write_images

from pipeline.parts.train import TrainPart
from pipeline.tasks.words import CLASSIFICATION
from pipeline.training import epochs as module
from pipeline.training.distributed import World
from pipeline.training.log import EpochMetrics, open_log
from pipeline.training.remaining import Remaining
from pipeline.training.stage import train
from pipeline.training.trainer import Trainer

NOON = datetime(2026, 3, 14, 12)


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds - 1000)


def lines(
    part: TrainPart, updates: int, update: float, evaluation: float = 0.0, before: int = 0, warm_up: float = 0.0,
    slow: float = 0.0, until: int | None = None,
) -> list[tuple[int, str]]:  # fmt: skip
    """What is said of a training whose updates and evaluations take so many seconds, the first one `warm_up` more and each
    of the first epoch `slow` more; each with the number of updates done by then."""
    clock = Clock()
    remaining = Remaining(part, updates, before, clock, clock.now)
    said = []
    clock.seconds += warm_up
    for done in range(before + 1, (until or part.epochs * updates) + 1):
        clock.seconds += update + slow * (done <= updates)
        said.append((done, remaining.after_update(done)))
        if done % updates == 0:
            due = part.evaluates_after(done // updates - 1)
            clock.seconds += evaluation * due
            said.append((done, remaining.after_epoch(evaluated=due)))
    return [(done, line) for done, line in said if line is not None]


def test_after_twenty_updates_where_these_are_slow() -> None:
    """2 s each, 100 an epoch: 200 s an epoch; the first 20 updates took 40 s, and 30 s of warm-up that count no more."""
    assert lines(TrainPart(epochs=60), 100, 2.0, warm_up=30.0) == [
        (20, "about 3 h 19 min for 60 epochs (done at 15:20)"),
    ]


def test_after_thirty_seconds_where_they_are_fast() -> None:
    assert lines(TrainPart(epochs=10), 10_000, 0.1)[0] == (300, "about 2 h 46 min for 10 epochs (done at 14:46)")


def test_at_the_end_of_the_first_epoch_at_the_latest() -> None:
    """5 updates of 10 s and 50 s of evaluation are 100 s an epoch: three more are 5 minutes."""
    assert lines(TrainPart(epochs=4), 5, 10.0, 50.0) == [(5, "about 5 min for the 3 epochs left (done at 12:06)")]
    assert lines(TrainPart(epochs=4), 1, 50.0, 50.0) == [(1, "about 5 min for the 3 epochs left (done at 12:06)")]
    assert lines(TrainPart(epochs=2), 5, 10.0, 50.0) == [(5, "about 2 min for the last epoch (done at 12:03)")]


def test_short_epochs_that_get_faster() -> None:
    """5 updates an epoch, of 2 s at first and 1 s then: said after 10 s, and again when there were 20 updates and 30 s."""
    assert lines(TrainPart(epochs=60), 5, 1.0, 2.0, slow=1.0) == [
        (5, "about 12 min for the 59 epochs left (done at 12:12)"),
        (20, "about 8 min for the 56 epochs left (done at 12:08)"),
    ]


def test_an_evaluation_that_changes_it_is_said_and_another_not() -> None:
    part = TrainPart(epochs=10)
    slow = lines(part, 100, 1.0, 60.0)
    assert slow == [
        (30, "about 16 min for 10 epochs (done at 12:16)"),
        (100, "about 24 min for the 9 epochs left (done at 12:26)"),
    ]
    assert lines(part, 100, 1.0, 10.0) == slow[:1]


def test_updates_that_get_faster_are_said_with_the_first_evaluation() -> None:
    """It comes after the fifth epoch: then everything is known, and later epochs say nothing more."""
    part = TrainPart(epochs=10, eval_every=5)
    assert lines(part, 100, 1.0, 200.0)[1:] == [(500, "about 12 min for the 5 epochs left (done at 12:23)")]


def test_a_training_that_goes_on() -> None:
    """What remains, from within an epoch; nothing is known of what earlier processes took."""
    part = TrainPart(epochs=310)
    assert lines(part, 100, 10.0, before=25_050, until=25_099) == [
        (25_070, "about 16 h 28 min for the 60 epochs left (done at 2026-03-15 04:31)"),
    ]


def test_what_is_over_in_a_moment_needs_no_estimate() -> None:
    assert lines(TrainPart(epochs=4), 100, 0.05, 1.0) == []
    assert lines(TrainPart(epochs=1), 40, 2.0, 100.0) == [(20, "about 40 s for 1 epoch (done at 12:01)")]
    assert lines(TrainPart(epochs=1), 30, 2.0) == []
    assert lines(TrainPart(epochs=1), 1, 100.0) == []


class Ticking(Clock):
    """Each look at it takes ten seconds."""

    def __call__(self) -> float:
        self.seconds += 10
        return self.seconds


def row(epoch: int) -> EpochMetrics:
    return EpochMetrics(epoch, 1e-3, 0.5, 90.0, None, 100.0, 60.0, 3)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_only_rank_0_says_it_and_updates_left_out_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rank: int
) -> None:
    """An epoch of three updates that were all left out, and its evaluation: 40 seconds more."""
    clock = Ticking()
    remaining = Remaining(TrainPart(epochs=2), 3, 0, clock, clock.now)
    with open_log(tmp_path, CLASSIFICATION, 2, 3, [], World(rank, 2, torch.device("cpu")), remaining) as log:
        for step in range(3):
            log.show_skipped(0, step, float("nan"))
        log.add_epoch(row(1))
    said = capsys.readouterr().out.splitlines()
    if rank > 0:
        assert said == []
    else:
        assert [line.split()[0] for line in said] == ["epoch", "epoch", "epoch", "epoch", "about"]
        assert said[-1] == "           about 40 s for the last epoch (done at 12:01)"


@pytest.mark.slow
def test_a_training_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the second of three epochs of three updates; then two updates, and one epoch, are left."""
    begun = []

    def ticking(part: TrainPart, updates: int, done: int) -> Remaining:
        clock = Ticking()
        begun.append(done)
        return Remaining(part, updates, done, clock, clock.now)

    def interrupted(self: Trainer, epoch: int, step: int, *rest: Any) -> Any:
        if (epoch, step) == (1, 1):
            raise KeyboardInterrupt
        return update(self, epoch, step, *rest)

    update = Trainer._update
    monkeypatch.setattr(module, "Remaining", ticking)
    work = folder(tmp_path, "work")
    chosen = recipe(write_images(tmp_path / "images"), PLAIN | {"epochs": 3, "save_every": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(chosen, work)
    first = [line.strip() for line in capsys.readouterr().out.splitlines()]
    train(chosen, work)
    second = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert begun == [0, 4]
    assert [line.split()[0] for line in first] == ["epoch", "about"]
    assert first[1] == "about 1 min for the 2 epochs left (done at 12:02)"
    assert [line.split()[0] for line in second] == ["epoch", "about", "epoch", "top-1"]
    assert second[1] == "about 40 s for the last epoch (done at 12:01)"
