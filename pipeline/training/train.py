"""Train a classifier on one CPU, one GPU, or as many as `torchrun` starts; an interrupted training goes on exactly.

The parts (augmentation, mixing, optimizer, schedule, moving average) are timm's; the recipe says which.
"""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from calib.errors import InputError
from calib.images import ImageSplit
from pipeline.data.dataset import open_dataset
from pipeline.data.overlap import check_no_overlap
from pipeline.parts.train import TrainPart
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import Checkpoint, write_checkpoint
from pipeline.training.distributed import World, open_world
from pipeline.training.files import BEST, LAST, restore_last, save_last, training_identity
from pipeline.training.loader import make_loaders
from pipeline.training.log import EpochMetrics, open_log
from pipeline.training.network import create_network
from pipeline.training.state import TrainingState, new_state
from pipeline.training.trainer import Trainer, accumulation, fit_batch
from pipeline.training.weights import load_checkpoint, say_loaded

_SHARED_SECONDS = 120  # a file that one machine has written can take a minute to be seen through NFS by another


def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train, or take over given weights where `train.epochs` is 0, and write `folder/checkpoint.pt`.

    `folder` exists (on rank 0). Also writes `last.pt`, `metrics.csv` and `tensorboard/` there, and where the recipe says
    so `best.pt` and `kept/`. The weights handed on are those of the last epoch: the moving average where
    `train.ema_decay` is above 0. Returns notes for the manifest: top1 in percent, epochs, seconds, images_per_s (None if
    not trained) and which weights.
    """
    torch.set_flush_denormal(True)  # the performer's exponentials make subnormal numbers: 1.3 times slower on a CPU
    with open_world() as world:
        train_split, val_split = open_dataset(recipe.data)
        if world.rank == 0:
            check_no_overlap(train_split, val_split)
        recipe = _with_fitting_batch(recipe, world)
        _check(recipe.train, len(train_split), world)
        spec = recipe.preprocess_spec()
        with closing(make_loaders(train_split, val_split, spec, recipe.train, world)) as loaders:
            trainer = Trainer(recipe, loaders, len(train_split.classes), world)
            if recipe.train.epochs == 0:
                model, notes = _take_over(recipe, train_split, trainer)
            else:
                model, notes = _train(recipe, train_split, trainer, folder)
        if world.rank == 0:
            _write(model, recipe, train_split.classes, folder / "checkpoint.pt")
        world.wait()  # nobody goes on before the checkpoint is there
        return notes


def _with_fitting_batch(recipe: Recipe, world: World) -> Recipe:
    """`recipe` with the batch that its `global_batch` leaves for each process, and a line that says so."""
    part = fit_batch(recipe.train, world)
    if part is recipe.train:
        return recipe
    if world.rank == 0:
        print(
            f"           {world.size} process(es) take {part.batch_size} image(s) each, not train.batch_size "
            f"{recipe.train.batch_size}: an update is of train.global_batch {part.global_batch}", flush=True,
        )  # fmt: skip
    return recipe.model_copy(update={"train": part})


def _check(part: TrainPart, images: int, world: World) -> None:
    """What only the images and the number of processes, or several values together, can tell."""
    if part.epochs == 0:
        return
    share = images // world.size
    if part.batch_size * accumulation(part, world) > share:
        if part.global_batch is not None:
            raise InputError(
                "train.global_batch is larger than the training set", got=part.global_batch, allowed=f"at most {images}",
                next_step="lower train.global_batch",
            )  # fmt: skip
        raise InputError(
            "train.batch_size is larger than a process's share of the training images", got=part.batch_size,
            allowed=f"at most {share} ({images} images, {world.size} process(es))", next_step="lower train.batch_size",
        )  # fmt: skip
    if (part.mixup > 0 or part.cutmix > 0) and part.batch_size % 2:
        raise InputError(
            "mixup and cutmix pair the images of a batch",
            got=f"{part.batch_size} image(s) in the batch of each of {world.size} process(es)",
            allowed="an even number",
            next_step="change train.batch_size, train.global_batch or the number of processes, or set train.mixup and "
            "train.cutmix to 0",
        )  # fmt: skip
    if part.warmup_epochs + part.cooldown_epochs >= part.epochs:
        raise InputError(
            "warm-up and cool-down take the whole training",
            got=f"train.warmup_epochs {part.warmup_epochs}, train.cooldown_epochs {part.cooldown_epochs}",
            allowed=f"together less than train.epochs ({part.epochs})",
            next_step="lower train.warmup_epochs or train.cooldown_epochs",
        )  # fmt: skip


def _take_over(recipe: Recipe, split: ImageSplit, trainer: "Trainer") -> tuple[nn.Module, dict[str, Any]]:
    """The weights of `model.checkpoint`, or of the factory, measured but not trained."""
    started = time.monotonic()
    model, weights = _given_weights(recipe, split, trainer.world)
    (top1,) = trainer.measure([model.to(trainer.world.device)])
    seconds = time.monotonic() - started
    return model, {"top1": top1, "epochs": 0, "seconds": seconds, "images_per_s": None, "weights": weights}


def _given_weights(recipe: Recipe, split: ImageSplit, world: World) -> tuple[nn.Module, str]:
    if recipe.model.checkpoint is None:  # the recipe holds that there is a factory then
        return create_network(recipe.model, len(split.classes)), "model.factory"
    loaded = load_checkpoint(recipe.model, split.classes, recipe.preprocess_spec())
    if world.rank == 0:
        say_loaded(loaded)
    if loaded.fresh_classifier:
        raise InputError(
            "the checkpoint is for other classes, so its classifier has to be trained", got="train.epochs: 0",
            allowed="at least 1", next_step="set train.epochs, or take a checkpoint for these classes",
        )  # fmt: skip
    return loaded.model, "model.checkpoint"


def _train(recipe: Recipe, split: ImageSplit, trainer: "Trainer", folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    part, world = recipe.train, trainer.world
    state = new_state(recipe, split.classes, trainer.updates, world)

    def keep_best() -> None:
        if part.keep_best and world.rank == 0 and _is_best(state.history):
            _write(state.result(), recipe, split.classes, folder / BEST)

    run_epochs(trainer, state, training_identity(recipe, split.classes, len(split), world), folder, keep_best)
    rates = [row.images_per_s for row in state.history]
    notes = {
        "top1": state.history[-1].top1, "epochs": part.epochs,
        "seconds": sum(row.seconds for row in state.history), "images_per_s": median(rates),
        "weights": "moving average" if state.ema is not None else "last epoch",
    }  # fmt: skip
    if part.keep_best:
        best = max((row for row in state.history if row.top1 is not None), key=lambda row: (row.top1, -row.epoch))
        notes |= {"best_top1": best.top1, "best_epoch": best.epoch}
    return state.result(), notes


def _is_best(history: list[EpochMetrics]) -> bool:
    """Whether the last epoch was measured, and is better than all before."""
    *before, last = (row.top1 for row in history)
    return last is not None and all(top1 is None or top1 < last for top1 in before)


def _write(model: nn.Module, recipe: Recipe, classes: tuple[str, ...], path: Path) -> None:
    part, weights = recipe.model, dict(model.state_dict())
    spec = recipe.preprocess_spec().to_dict()
    write_checkpoint(Checkpoint(part.label, part.image_size, classes, spec, weights), path)


def run_epochs(
    trainer: Trainer, state: TrainingState, identity: dict[str, Any], folder: Path,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """All epochs, or what an interrupted training of the same `identity` has left. Every process comes here."""
    part, world = trainer.part, trainer.world
    world.wait()  # rank 0 may still be making the folder
    if _sees_last(folder, world):
        restore_last(folder, state, identity, world)
    world.wait()  # rank 0 writes a new one below

    def save() -> None:
        if world.rank == 0:
            save_last(folder, state, identity, part.keep_last)

    network = _wrap(state.model, part, world)
    with open_log(folder, part.epochs, trainer.updates, state.history, world, part.wandb) as log:
        for epoch in range(state.epochs_done, part.epochs):
            trainer.run_epoch(epoch, network, state, log, save)
            after_epoch()  # before the epoch counts as done: what a kill leaves out is done again
            save()


def _sees_last(folder: Path, world: World) -> bool:
    """Whether there is a `last.pt`: what rank 0 sees counts. InputError where another process does not see the same."""
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
    """The network as training calls it: gradients averaged over the processes, compiled where the recipe says so."""
    network: nn.Module = model
    if world.size > 1:
        network = DistributedDataParallel(model, device_ids=[world.device] if world.device.type == "cuda" else None)
    return torch.compile(network) if part.compile else network  # type: ignore[return-value]
