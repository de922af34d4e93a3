"""NaN or Inf in the loss: training stops and saves the batch, or leaves the update out (`train.on_nan`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.parts.train import TrainPart
from pipeline.training.checkpoint import save_atomically
from pipeline.training.distributed import World
from pipeline.training.learning.samples import Batch
from pipeline.training.loader import EpochSampler
from pipeline.training.log import TrainingLog


class NotFinite(RuntimeError):
    """The loss or the weights are not finite; the message says where, and which files are kept."""


@dataclass
class _Update:
    """One update in this process: `loss` is still on the device, `batches` are uint8 images and labels."""

    epoch: int
    index: int
    loss: Tensor
    batches: Sequence[Batch]


class Watch:
    """Checks every loss, shows it, and stops training where one is not finite.

    It checks one update late, because reading the newest loss would make the GPU wait. The weights may be lost by then;
    `last.pt` holds earlier ones.
    """

    def __init__(self, log: TrainingLog, sampler: EpochSampler, part: TrainPart, world: World, advice: str):
        self.log, self.sampler, self.part, self.world, self.advice = log, sampler, part, world, advice
        self.pending: _Update | None = None
        self.skipped_in_a_row = 0

    def follow(self, epoch: int, index: int, loss: Tensor, batches: Sequence[Batch]) -> None:
        """An update was made: check the loss of the one before it."""
        self.settle()
        self.skipped_in_a_row = 0
        self.pending = _Update(epoch, index, loss, batches)

    def settle(self) -> None:
        """Check the newest update as well."""
        if self.pending is not None:
            update, self.pending = self.pending, None
            value = float(update.loss)
            if not math.isfinite(value):
                raise self._stop(update, f"the training loss is {value}")
            self.log.show_step(update.epoch, update.index, value)

    def skip(self, epoch: int, index: int, loss: Tensor, batches: Sequence[Batch]) -> None:
        """An update was left out in all processes: show that, and stop after `train.max_skipped` in a row."""
        self.settle()
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.part.max_skipped:
            raise self._stop(
                _Update(epoch, index, loss, batches),
                f"the training loss or its gradient was not finite {self.skipped_in_a_row} times in a row",
            )
        self.log.show_skipped(epoch, index, float(loss))

    def check_weights(self, model: nn.Module, epoch: int, index: int) -> None:
        """Raise NotFinite before such weights are saved: `last.pt` always holds finite ones."""
        if not finite([tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]):
            raise NotFinite(
                f"the weights are not finite after update {index} of epoch {epoch + 1}, though the loss was.\n"
                f"  next: {self.advice}; last.pt, where there is one, holds earlier, finite ones"
            )

    def _stop(self, update: _Update, what: str) -> NotFinite:
        kept = self._keep(update)
        return NotFinite(
            f"{what} in epoch {update.epoch + 1}, step {update.index + 1}: the weights are lost.\n"
            f"  next: {self.advice}; the batch is in {kept}; last.pt, where there is one, holds earlier, finite ones"
        )

    def _keep(self, update: _Update) -> Path:
        """Save the batch as the loader gave it. Mixing and erasing, done on the device, depend only on seed, epoch and step."""
        rank = self.world.rank
        path = self.log.folder / f"not-finite-epoch{update.epoch + 1}-step{update.index + 1}-process{rank}.pt"
        images = sum(len(labels) for _, labels in update.batches)
        indices = self.sampler.share(update.epoch)[update.index * images : (update.index + 1) * images]
        save_atomically(
            {
                "epoch": update.epoch + 1, "step": update.index + 1, "process": rank, "processes": self.world.size,
                "seed": self.part.seed, "loss": float(update.loss), "image_indices": [int(index) for index in indices],
                "images": [batch.cpu() for batch, _ in update.batches],
                "labels": [labels.cpu() for _, labels in update.batches],
            },
            path,
        )  # fmt: skip
        return path


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every value is finite; the device is asked only once."""
    return not tensors or bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())
