"""What training shows and keeps: a bar or plain lines, `metrics.csv`, TensorBoard events. Rank 0 only."""

import csv
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from calib.errors import InputError
from pipeline.tasks.words import Words
from pipeline.training.distributed import World
from pipeline.training.remaining import Remaining

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class EpochMetrics:
    """One row of `metrics.csv`. `epoch` counts from 1, scores are in percent and None where they were not measured.

    `images_per_s` is of training without evaluation, over all processes, since this process started; `seconds` is the whole
    epoch; `skipped` counts updates that were not made because the loss or its gradient was not finite.
    """

    epoch: int
    lr: float
    train_loss: float
    val_score: float | None
    ema_score: float | None
    images_per_s: float
    seconds: float
    skipped: int

    @property
    def score(self) -> float | None:
        """Of the weights that the checkpoint gets: the moving average where there is one."""
        return self.val_score if self.ema_score is None else self.ema_score

    def to_values(self, words: Words) -> dict[str, Any]:
        """Plain values by name, the score called as the task calls it: `val_top1`."""
        return {name.replace("score", words.score): value for name, value in asdict(self).items()}

    @classmethod
    def from_values(cls, values: dict[str, Any], words: Words) -> "EpochMetrics":
        """From what `to_values` gave."""
        return cls(**{field.name: values[field.name.replace("score", words.score)] for field in fields(cls)})


class TrainingLog:
    """`history` holds one row per finished epoch. When training resumes it comes from `last.pt`, so no epoch is listed twice."""

    def __init__(
        self, folder: Path, words: Words, epochs: int, steps: int, history: list[EpochMetrics],
        writer: "SummaryWriter | None", remaining: Remaining, bar: "Progress | None" = None, wandb: "WandbRun | None" = None,
    ):  # fmt: skip
        self.words, self.wandb, self.remaining = words, wandb, remaining
        self.folder, self.epochs, self.steps, self.history, self.writer = folder, epochs, steps, history, writer
        self._bar = bar
        if bar is not None:
            self._task = bar.add_task("           training", total=epochs * steps, completed=len(history) * steps)

    def show_step(self, epoch: int, step: int, loss: float) -> None:
        """Move the bar, and say when training will be done once that is known: epoch and step count from 0."""
        self._say(self.remaining.after_update(epoch * self.steps + step + 1))
        if self._bar is not None:
            accuracy = next((_accuracy(row) for row in reversed(self.history) if row.val_score is not None), "–")
            text = f"epoch {epoch + 1}/{self.epochs}  loss {loss:.3f}  {self.words.score_name} {accuracy}"
            self._bar.update(self._task, completed=epoch * self.steps + step + 1, description=f"           {text}")

    def show_skipped(self, epoch: int, step: int, loss: float) -> None:
        """Print that an update was left out: epoch and step count from 0."""
        self._say(f"epoch {epoch + 1}/{self.epochs}  step {step + 1} left out: loss {loss}")
        self._say(self.remaining.after_update(epoch * self.steps + step + 1))

    def add_epoch(self, row: EpochMetrics) -> None:
        """Keep a finished epoch and show it."""
        self.history.append(row)
        if self.writer is None:
            return
        _write_csv(self.folder / "metrics.csv", [row.to_values(self.words) for row in self.history])
        values = row.to_values(self.words)
        values = {name: value for name, value in values.items() if name != "epoch" and value is not None}
        for name, value in values.items():
            self.writer.add_scalar(name, value, row.epoch)
        self.writer.flush()
        if self.wandb is not None:
            self.wandb.log(values, step=row.epoch)
        self._say(
            f"epoch {row.epoch}/{self.epochs}  loss {row.train_loss:.3f}  {self.words.score_name} {_accuracy(row)}"
            f"  {row.images_per_s:.0f} images/s  {row.seconds:.0f} s"
        )
        self._say(self.remaining.after_epoch(evaluated=row.val_score is not None))

    def _say(self, line: str | None) -> None:
        """Print a line where there is one; only rank 0 has a writer, and prints."""
        if line is None or self.writer is None:
            return
        if self._bar is not None:
            self._bar.console.print(f"           {line}", highlight=False, markup=False)  # above the bar
        else:
            print(f"           {line}", flush=True)


class WandbRun(Protocol):
    """The part of a Weights & Biases run that is used here."""

    def log(self, values: dict[str, Any], *, step: int) -> None: ...


@contextmanager
def open_log(
    folder: Path, words: Words, epochs: int, steps: int, history: list[EpochMetrics], world: World, remaining: Remaining,
    project: str | None = None,
) -> Iterator[TrainingLog]:  # fmt: skip
    """A log that continues after `history`; `steps` is the number of steps in an epoch. Only rank 0 prints and writes.

    With `project` it also logs to a run of that Weights & Biases project; InputError where the package is missing.
    """
    if world.rank > 0:
        yield TrainingLog(folder, words, epochs, steps, history, None, remaining)
        return
    from torch.utils.tensorboard import SummaryWriter

    with (
        _open_wandb(folder, project) as wandb,
        SummaryWriter(str(folder / "tensorboard"), purge_step=len(history) + 1) as writer,
    ):
        if not sys.stdout.isatty():
            yield TrainingLog(folder, words, epochs, steps, history, writer, remaining, wandb=wandb)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
        with Progress(*columns, TimeRemainingColumn(), transient=True) as bar:
            yield TrainingLog(folder, words, epochs, steps, history, writer, remaining, bar, wandb)


@contextmanager
def _open_wandb(folder: Path, project: str | None) -> "Iterator[WandbRun | None]":
    """A run of `project`. Its id is kept in `folder`, so that a training that resumes continues the same run."""
    if project is None:
        yield None
        return
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "train.wandb needs the package wandb", got=f"train.wandb: {project}", allowed="metrics.csv and TensorBoard "
            "are written without it", next_step="pip install wandb, or remove train.wandb from the recipe",
        ) from error  # fmt: skip
    kept = folder / "wandb-id.txt"
    if not kept.is_file():
        kept.write_text(secrets.token_hex(4), encoding="utf-8")
    with wandb.init(
        project=project, id=kept.read_text(encoding="utf-8"), resume="allow", dir=str(folder.parent)
    ) as run:
        yield run


def _accuracy(row: EpochMetrics) -> str:
    """`84.1 %`, followed by that of the weights' moving average where there is one; `–` where it was not measured."""
    if row.val_score is None:
        return "–"
    return f"{row.val_score:.2f} %" + (f" (EMA {row.ema_score:.2f} %)" if row.ema_score is not None else "")


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)
