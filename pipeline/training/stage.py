"""The train stage: train a network on a CPU, a GPU or the processes that `torchrun` starts, or take given weights.

An interrupted training resumes with exactly the result it would have had. Augmentation, mixing, optimizer, schedule and
moving average are timm's; the recipe says which.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import torch
from torch import nn

from calib.errors import InputError
from calib.images import ImageSplit
from export.brought.file import NETWORK, read_file
from export.brought.interface import read_interface
from pipeline.artifact import Artifact
from pipeline.console.figures import counted
from pipeline.data.dataset import check_train_images, open_dataset
from pipeline.data.overlap import check_no_overlap
from pipeline.recipe import Recipe
from pipeline.tasks.task import task_named
from pipeline.training.checkpoint import Checkpoint, write_checkpoint
from pipeline.training.distributed import World, open_world
from pipeline.training.epochs import run_epochs
from pipeline.training.learning.learning import LEARNING, check_augmentation
from pipeline.training.loader import make_loaders
from pipeline.training.log import EpochMetrics
from pipeline.training.network import create_network
from pipeline.training.pretrained import load_pretrained, pretrained_notes
from pipeline.training.resume import BEST, training_identity
from pipeline.training.state import new_state
from pipeline.training.trainer import Trainer, accumulation, fit_batch
from pipeline.training.weights import load_checkpoint, say_loaded


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `checkpoint.pt`, `last.pt`, `metrics.csv` and TensorBoard events into `folder`; see `train`.

    Of a network in an ONNX file, `network.onnx` and `checkpoint.pt`; see `take_network`.
    """
    return train(recipe, folder) if recipe.model.onnx is None else take_network(recipe, folder)


def take_network(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Write the network of `model.onnx`, whole, to `folder/network.onnx`, and a checkpoint without weights.

    The checkpoint says what later stages ask of one: classes and preprocessing. Returns notes for the manifest.
    """
    path = recipe.model.onnx
    assert path is not None
    with open_world() as world:
        train_split, val_split = open_dataset(recipe.data)
        if world.rank == 0:
            check_no_overlap(train_split, val_split)
            proto, spec, classes = read_file(path), recipe.preprocess_spec(), train_split.classes
            read_interface(proto, path, spec, len(classes), recipe.model.output, recipe.logit_sides())
            onnx.save(proto, folder / NETWORK)
            checkpoint = Checkpoint(recipe.model.label, recipe.model.known_size, classes, spec.to_dict(), {})
            write_checkpoint(checkpoint, folder / "checkpoint.pt")
            print(f"           nothing to train: {path} is a finished network", flush=True)
        world.wait()  # until the files are written
    words = task_named(recipe.data.task).words
    return {words.score: None, "epochs": 0, "seconds": 0.0, "images_per_s": None, "weights": "model.onnx"}


def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train, or take over given weights where `train.epochs` is 0, and write `folder/checkpoint.pt`.

    `folder` exists (on rank 0). Also writes `last.pt`, `metrics.csv` and `tensorboard/` there, and where the recipe asks
    for them `best.pt` and `kept/`. The checkpoint holds the weights of the last epoch: their moving average where
    `train.ema_decay` is above 0. Returns notes for the manifest: the score in percent (None for weights that a CPU takes over),
    epochs, seconds, images_per_s (None if not trained) and which weights.
    """
    torch.set_flush_denormal(True)  # the performer's exponentials make subnormal numbers: 1.3 times slower on a CPU
    with open_world() as world:
        train_split, val_split = open_dataset(recipe.data)
        if world.rank == 0:
            check_no_overlap(train_split, val_split)
        recipe = _with_fitting_batch(recipe, world)
        if recipe.train.epochs > 0:
            check_train_images(train_split)
        _check(recipe, len(train_split), world)
        spec, learning = recipe.preprocess_spec(), LEARNING[recipe.data.task]
        with closing(make_loaders(learning, train_split, val_split, spec, recipe.train, world)) as loaders:
            trainer = Trainer(recipe, loaders, len(train_split.classes), world)
            if recipe.train.epochs == 0:
                model, notes = _take_over(recipe, train_split, trainer)
            else:
                model, notes = _train(recipe, train_split, trainer, folder)
        if world.rank == 0:
            _write(model, recipe, train_split.classes, folder / "checkpoint.pt")
            print(f"           {_reached(trainer, notes, len(val_split))}", flush=True)
        world.wait()  # until the checkpoint is written
        return notes | pretrained_notes(recipe.model)


def _reached(trainer: Trainer, notes: dict[str, Any], images: int) -> str:
    score = notes[trainer.words.score]
    if score is None:
        return f"nothing to train ({notes['weights']}): export computes what these weights reach"
    return f"{trainer.words.score_name} {score:.2f} % on {counted(images, 'image')} ({notes['weights']})"


def _with_fitting_batch(recipe: Recipe, world: World) -> Recipe:
    """`recipe` with a `batch_size` that fits its `global_batch` (see `fit_batch`); prints a line where that changed it."""
    part = fit_batch(recipe.train, world)
    if part is recipe.train:
        return recipe
    if world.rank == 0:
        print(
            f"           {counted(world.size, 'process')}: {counted(part.batch_size, 'image')} each instead of "
            f"train.batch_size {recipe.train.batch_size}, so that an update has train.global_batch {part.global_batch}",
            flush=True,
        )  # fmt: skip
    return recipe.model_copy(update={"train": part})


def _check(recipe: Recipe, images: int, world: World) -> None:
    """InputError for values that do not fit the task, the number of images, the number of processes or each other."""
    part = recipe.train
    if part.epochs == 0:
        return
    check_augmentation(recipe.data.task, part)
    share = images // world.size
    if part.batch_size * accumulation(part, world) > share:
        if part.global_batch is not None:
            raise InputError(
                "train.global_batch is larger than the training set", got=part.global_batch, allowed=f"at most {images}",
                next_step="lower train.global_batch",
            )  # fmt: skip
        raise InputError(
            "train.batch_size is larger than a process's share of the training images", got=part.batch_size,
            allowed=f"at most {share} ({counted(images, 'image')}, {counted(world.size, 'process')})",
            next_step="lower train.batch_size",
        )  # fmt: skip
    if (part.mixup > 0 or part.cutmix > 0) and part.batch_size % 2:
        raise InputError(
            "mixup and cutmix pair the images of a batch",
            got=f"{counted(part.batch_size, 'image')} in the batch, {counted(world.size, 'process')}",
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


def _take_over(recipe: Recipe, split: ImageSplit, trainer: Trainer) -> tuple[nn.Module, dict[str, Any]]:
    """The weights of `model.checkpoint`, `model.pretrained` or `model.factory`, not trained.

    They are evaluated where a GPU does it at once; a CPU has to compute the same for the export anyway, and takes its time.
    """
    started = time.monotonic()
    model, weights = _given_weights(recipe, split, trainer.world)
    score = None
    if trainer.world.device.type != "cpu":
        (score,) = trainer.measure([model.to(trainer.world.device)], "evaluating")
    seconds = time.monotonic() - started
    return model, {
        trainer.words.score: score,
        "epochs": 0,
        "seconds": seconds,
        "images_per_s": None,
        "weights": weights,
    }


def _given_weights(recipe: Recipe, split: ImageSplit, world: World) -> tuple[nn.Module, str]:
    if not recipe.model.starts_with_weights:  # then there is a factory: the recipe was checked for that
        return create_network(recipe.model, len(split.classes), task=recipe.data.task), "model.factory"
    if recipe.model.pretrained:
        loaded = load_pretrained(recipe.model, split.classes)
    else:
        loaded = load_checkpoint(recipe.model, split.classes, recipe.preprocess_spec(), task=recipe.data.task)
    if world.rank == 0:
        say_loaded(loaded)
    if loaded.fresh_classifier:
        raise InputError(
            "the weights are for other classes, so the classifier has to be trained",
            got=f"train.epochs: 0, {counted(len(split.classes), 'class')} of images", allowed="at least 1 epoch",
            next_step="set train.epochs, take weights for these classes, or name the network's classes in data.classes",
        )  # fmt: skip
    return loaded.model, "model.pretrained" if recipe.model.pretrained else "model.checkpoint"


def _train(recipe: Recipe, split: ImageSplit, trainer: Trainer, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    part, world = recipe.train, trainer.world
    state = new_state(recipe, split.classes, trainer.updates, world)

    def keep_best() -> None:
        if part.keep_best and world.rank == 0 and _is_best(state.history):
            _write(state.result(), recipe, split.classes, folder / BEST)

    run_epochs(trainer, state, training_identity(recipe, split.classes, len(split), world), folder, keep_best)
    rates = [row.images_per_s for row in state.history]
    notes = {
        trainer.words.score: state.history[-1].score, "epochs": part.epochs,
        "seconds": sum(row.seconds for row in state.history), "images_per_s": median(rates),
        "weights": "moving average" if state.ema is not None else "last epoch",
    }  # fmt: skip
    if part.keep_best:
        best = max((row for row in state.history if row.score is not None), key=lambda row: (row.score, -row.epoch))
        notes |= {f"best_{trainer.words.score}": best.score, "best_epoch": best.epoch}
    return state.result(), notes


def _is_best(history: list[EpochMetrics]) -> bool:
    """Whether the last epoch was evaluated and is better than all before."""
    *before, last = (row.score for row in history)
    return last is not None and all(score is None or score < last for score in before)


def _write(model: nn.Module, recipe: Recipe, classes: tuple[str, ...], path: Path) -> None:
    part, weights = recipe.model, dict(model.state_dict())
    spec = recipe.preprocess_spec().to_dict()
    write_checkpoint(Checkpoint(part.label, part.known_size, classes, spec, weights), path)
