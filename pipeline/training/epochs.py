"""All epochs of a training, or those that an interrupted one has left: for the train stage and for QAT."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from calib.errors import InputError
from pipeline.parts.train import TrainPart
from pipeline.training.distributed import World
from pipeline.training.log import open_log
from pipeline.training.remaining import Remaining
from pipeline.training.resume import LAST, restore_last, save_last
from pipeline.training.state import TrainingState
from pipeline.training.trainer import Trainer

_SHARED_SECONDS = 120  # until another machine sees, through NFS, a file that was just written


def run_epochs(
    trainer: Trainer, state: TrainingState, identity: dict[str, Any], folder: Path,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Train all epochs, or the rest of an interrupted training of the same `identity`. Every process calls this.

    `identity` is checked against the one in `last.pt` (see `restore_last`); `after_epoch` runs before `last.pt` is written.
    """
    part, world = trainer.part, trainer.world
    world.wait()  # rank 0 may still be making the folder
    if _sees_last(folder, world):
        restore_last(folder, state, trainer.words, identity, world)
    world.wait()  # rank 0 writes a new one below

    def save() -> None:
        if world.rank == 0:
            save_last(folder, state, trainer.words, identity, part.keep_last)

    network = _wrap(state.model, part, world)
    done = state.epochs_done * trainer.updates + state.position.update
    remaining = Remaining(part, trainer.updates, done)
    with open_log(
        folder, trainer.words, part.epochs, trainer.updates, state.history, world, remaining, part.wandb
    ) as log:
        for epoch in range(state.epochs_done, part.epochs):
            trainer.run_epoch(epoch, network, state, log, save)
            after_epoch()  # before the epoch is saved as done: after a kill in between, both happen again
            save()


def _sees_last(folder: Path, world: World) -> bool:
    """Whether rank 0 sees a `last.pt`. InputError where another process does not see the same file."""
    path = folder / LAST

    def size() -> int:
        return path.stat().st_size if path.is_file() else -1

    expected = world.gather(torch.tensor(size(), dtype=torch.float64, device=world.device))[0]
    if expected < 0:
        return False
    deadline = time.monotonic() + _SHARED_SECONDS
    while size() != expected:
        if time.monotonic() > deadline:
            raise InputError(
                f"process {world.rank} does not see the {LAST} of process 0", got=path,
                allowed="a folder that all machines share", next_step="put runs/ (--runs) on a shared file system",
            )  # fmt: skip
        time.sleep(1)
    return True


def _wrap(model: nn.Module, part: TrainPart, world: World) -> nn.Module:
    """The network to train: with gradients averaged over the processes, and compiled where the recipe asks for it."""
    network: nn.Module = model
    if world.size > 1:
        network = DistributedDataParallel(model, device_ids=[world.device] if world.device.type == "cuda" else None)
    return torch.compile(network) if part.compile else network  # type: ignore[return-value]
