"""Train a classifier on one CPU, one GPU, or as many as `torchrun` starts; an interrupted training goes on exactly.

The parts (augmentation, mixing, optimizer, schedule, moving average) are timm's; the recipe says which.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from calib.errors import InputError
from calib.images import ImageSplit
from pipeline.checkpoint import Checkpoint, write_checkpoint
from pipeline.dataset import check_no_overlap, open_dataset
from pipeline.distributed import World, open_world
from pipeline.loader import Batch, Loaders, Normalise, device_batches, make_loaders, seed_all
from pipeline.network import create_network
from pipeline.recipe import Recipe, TrainPart
from pipeline.training_log import EpochMetrics, TrainingLog, open_log
from pipeline.training_state import LAST, TrainingState, new_state, restore_last, save_last, training_identity
from pipeline.weights import load_checkpoint, say_loaded

_AMP = {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train, or take over given weights where `train.epochs` is 0, and write `folder/checkpoint.pt`.

    `folder` exists (on rank 0). Also writes `last.pt`, `metrics.csv` and `tensorboard/` there. The weights handed on
    are those of the last epoch: the moving average where `train.ema_decay` is above 0. Returns notes for the manifest:
    top1 in percent, epochs, seconds, images_per_s (None if not trained) and which weights.
    """
    torch.set_flush_denormal(True)  # the performer's exponentials make subnormal numbers: 1.3 times slower on a CPU
    with open_world() as world:
        train_split, val_split = open_dataset(recipe.data)
        if world.rank == 0:
            check_no_overlap(train_split, val_split)
        _check(recipe.train, len(train_split), world)
        spec = recipe.preprocess_spec()
        with closing(make_loaders(train_split, val_split, spec, recipe.train, world)) as loaders:
            trainer = Trainer(recipe, loaders, len(train_split.classes), world)
            if recipe.train.epochs == 0:
                model, notes = _take_over(recipe, train_split, trainer)
            else:
                model, notes = _train(recipe, train_split, trainer, folder)
        if world.rank == 0:
            part, weights = recipe.model, dict(model.state_dict())
            checkpoint = Checkpoint(part.label, part.image_size, train_split.classes, spec.to_dict(), weights)
            write_checkpoint(checkpoint, folder / "checkpoint.pt")
        world.wait()  # nobody goes on before the checkpoint is there
        return notes


def _check(part: TrainPart, images: int, world: World) -> None:
    """What only the images and the number of processes, or several values together, can tell."""
    if part.epochs == 0:
        return
    share = images // world.size
    if part.batch_size > share:
        raise InputError(
            "train.batch_size is larger than a process's share of the training images", got=part.batch_size,
            allowed=f"at most {share} ({images} images, {world.size} process(es))", next_step="lower train.batch_size",
        )  # fmt: skip
    if (part.mixup > 0 or part.cutmix > 0) and part.batch_size % 2:
        raise InputError(
            "mixup and cutmix pair the images of a batch", got=f"train.batch_size {part.batch_size}",
            allowed="an even number", next_step="change train.batch_size, or set train.mixup and train.cutmix to 0",
        )  # fmt: skip
    if part.warmup_epochs >= part.epochs:
        raise InputError(
            "the warm-up takes the whole training", got=f"train.warmup_epochs {part.warmup_epochs}",
            allowed=f"less than train.epochs ({part.epochs})", next_step="lower train.warmup_epochs",
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
    state = new_state(recipe, split.classes, len(trainer.loaders.train), world)
    run_epochs(trainer, state, training_identity(recipe, split.classes, len(split), world), folder)
    final = state.history[-1]
    rates = [row.images_per_s for row in state.history]
    return state.result(), {
        "top1": final.ema_top1 if state.ema is not None else final.val_top1, "epochs": part.epochs,
        "seconds": sum(row.seconds for row in state.history), "images_per_s": median(rates),
        "weights": "moving average" if state.ema is not None else "last epoch",
    }  # fmt: skip


def run_epochs(trainer: "Trainer", state: TrainingState, identity: dict[str, Any], folder: Path) -> None:
    """All epochs, or those that an interrupted training of the same `identity` has left."""
    part, world, steps = trainer.part, trainer.world, len(trainer.loaders.train)
    world.wait()  # rank 0 may still be making the folder
    if (folder / LAST).is_file():
        restore_last(folder / LAST, state, identity)
    world.wait()  # rank 0 writes a new one below
    network = _wrap(state.model, part, world)
    with open_log(folder, part.epochs, steps, state.history, world) as log:
        for epoch in range(state.epochs_done, part.epochs):
            trainer.run_epoch(epoch, network, state, log)
            if world.rank == 0:
                save_last(folder / LAST, state, identity)


def _wrap(model: nn.Module, part: TrainPart, world: World) -> nn.Module:
    """The network as training calls it: gradients averaged over the processes, compiled where the recipe says so."""
    network: nn.Module = model
    if world.size > 1:
        network = DistributedDataParallel(model, device_ids=[world.device] if world.device.type == "cuda" else None)
    return torch.compile(network) if part.compile else network  # type: ignore[return-value]


class Trainer:
    """The loop over one epoch, and the measurement after it."""

    advice = "lower train.lr, set train.clip_grad: 1.0, or train.amp: off"  # against a loss that is not finite

    def __init__(self, recipe: Recipe, loaders: Loaders, classes: int, world: World):
        part = recipe.train
        self.part, self.loaders, self.world = part, loaders, world
        self.normalise = Normalise(recipe.preprocess_spec(), world.device)
        self.erase = RandomErasing(part.random_erasing, mode="pixel", device=world.device)
        self.mix = _mixing(part, classes)
        self.loss = _loss(part)

    def run_epoch(self, epoch: int, network: nn.Module, state: TrainingState, log: TrainingLog) -> None:
        """One pass over the training images and, when it is due, a measurement; adds a row to the log."""
        started = time.monotonic()
        self.loaders.sampler.epoch = epoch
        network.train()
        loss_sum = torch.zeros((), device=self.world.device)
        before: Tensor | None = None
        for step, batch in enumerate(device_batches(self.loaders.train, self.world.device)):
            loss = self._step(epoch, step, batch, network, state)
            loss_sum += loss
            if before is not None:  # one step late: reading the newest loss would stall a GPU
                log.show_step(epoch, step - 1, self._finite(before, epoch, step - 1))
            before = loss
        steps = len(self.loaders.train)
        if before is not None:
            log.show_step(epoch, steps - 1, self._finite(before, epoch, steps - 1))
        trained = time.monotonic() - started
        due = (epoch + 1) % self.part.eval_every == 0 or epoch + 1 == self.part.epochs
        models = [state.model] if state.ema is None else [state.model, state.ema.module]
        top1: list[float] = self.measure(models) if due else []
        log.add_epoch(EpochMetrics(
            epoch=epoch + 1, lr=max(float(group["lr"]) for group in state.optimizer.param_groups),
            train_loss=float(self.world.total(loss_sum)) / steps / self.world.size,
            val_top1=top1[0] if top1 else None, ema_top1=top1[1] if len(top1) > 1 else None,
            images_per_s=steps * self.part.batch_size * self.world.size / trained, seconds=time.monotonic() - started,
        ))  # fmt: skip

    def _step(self, epoch: int, step: int, batch: Batch, network: nn.Module, state: TrainingState) -> Tensor:
        """One update of the weights; returns the loss, still on the device."""
        update = epoch * len(self.loaders.train) + step
        state.scheduler.step_update(update)
        seed_all(self.part.seed, epoch, step=step, rank=self.world.rank)
        images, targets = self.normalise(batch[0]), batch[1]
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        images = self.erase(images)
        with self._autocast():
            loss = self.compute_loss(network, images, targets)
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.part.clip_grad is not None:
            state.scaler.unscale_(state.optimizer)
            dispatch_clip_grad(network.parameters(), self.part.clip_grad)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.ema is not None:
            state.ema.update(state.model, step=update + 1)
        return loss.detach()

    def compute_loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch: normalised images (N, 3, H, W), labels (N,) or what mixing made of them."""
        return self.loss(network(images), targets)

    def _finite(self, loss: Tensor, epoch: int, step: int) -> float:
        value = float(loss)
        if not math.isfinite(value):
            raise RuntimeError(
                f"the training loss is {value} in epoch {epoch + 1}, step {step + 1}: the weights are lost.\n"
                f"  next: {self.advice}; last.pt, where there is one, holds the epoch before"
            )
        return value

    def _autocast(self) -> torch.autocast:
        dtype = _AMP[self.part.amp]
        return torch.autocast(self.world.device.type, dtype=dtype, enabled=dtype is not None)

    @torch.inference_mode()
    def measure(self, models: list[nn.Module]) -> list[float]:
        """Top-1 in percent of each model on all val images, each counted once, in float32 as the gate measures it."""
        for model in models:
            model.eval()
            self.world.share_buffers(model)
        counts = torch.zeros(len(models) + 1, dtype=torch.int64, device=self.world.device)  # right ones, then images
        for images, labels in device_batches(self.loaders.val, self.world.device):
            normalised = self.normalise(images)
            for index, model in enumerate(models):
                counts[index] += (model(normalised).argmax(1) == labels).sum()
            counts[-1] += len(labels)
        *right, total = self.world.total(counts).tolist()
        return [100 * count / total for count in right]


def _mixing(part: TrainPart, classes: int) -> Mixup | None:
    if part.mixup == 0 and part.cutmix == 0:
        return None
    return Mixup(part.mixup, part.cutmix, label_smoothing=part.label_smoothing, num_classes=classes)


def _loss(part: TrainPart) -> Callable[[Tensor, Tensor], Tensor]:
    """Mixing makes soft targets, smoothed already."""
    if part.mixup > 0 or part.cutmix > 0:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(part.label_smoothing) if part.label_smoothing > 0 else nn.CrossEntropyLoss()
