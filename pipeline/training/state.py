"""Everything that changes during training, and its start values: network, optimizer, schedule, moving average."""

from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_class,
    get_optimizer_info,
    list_optimizers,
    param_groups_weight_decay,
)
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.amp.grad_scaler import GradScaler

from calib.errors import InputError
from pipeline.parts.train import TrainPart
from pipeline.recipe import Recipe
from pipeline.training.distributed import World
from pipeline.training.log import EpochMetrics
from pipeline.training.network import create_network, new_in_transfer
from pipeline.training.pretrained import load_pretrained
from pipeline.training.weights import load_checkpoint, say_loaded


@dataclass(frozen=True)
class Position:
    """Progress within an epoch: updates done, the sum of losses of each process, updates left out, seconds."""

    update: int = 0
    loss_sums: tuple[float, ...] = ()
    skipped: int = 0
    seconds: float = 0.0

    @property
    def loss_sum(self) -> float:
        """The sum over all processes."""
        return sum(self.loss_sums, 0.0)

    def loss_of(self, world: World) -> float:
        """The sum from which this process continues; with another number of processes than before, rank 0 takes all of it."""
        if len(self.loss_sums) == world.size:
            return self.loss_sums[world.rank]
        return self.loss_sum if world.rank == 0 else 0.0


@dataclass
class TrainingState:
    """`model` is the bare network (not DDP, not compiled) on the device, `ema` the moving average of its weights.

    Schedule and random numbers need not be saved: both depend only on epoch and step (see `pipeline.training.loader`).
    """

    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    scaler: GradScaler
    history: list[EpochMetrics]
    position: Position = Position()

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    def result(self) -> nn.Module:
        """The network for the checkpoint: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.model


def new_state(recipe: Recipe, classes: tuple[str, ...], updates_per_epoch: int, world: World) -> TrainingState:
    """A network with new weights, or those of `model.checkpoint`, with its optimizer, schedule and moving average."""
    torch.manual_seed(recipe.train.seed)  # the same start weights in every process
    return make_state(_first_weights(recipe, classes, world), recipe.train, updates_per_epoch, world)


def make_state(model: nn.Module, part: TrainPart, updates_per_epoch: int, world: World) -> TrainingState:
    """`model`, moved to the device, with its optimizer, schedule and moving average."""
    layout = torch.channels_last if part.channels_last else torch.preserve_format
    model = model.to(world.device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = _make_optimizer(model, part)
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=part.epochs - part.cooldown_epochs, min_lr=part.min_lr,
        warmup_epochs=part.warmup_epochs, warmup_lr=min(1e-6, part.lr), step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )  # fmt: skip
    scaler = GradScaler(world.device.type, enabled=part.amp == "float16")
    return TrainingState(model, _moving_average(model, part.ema_decay), optimizer, scheduler, scaler, [])


def _first_weights(recipe: Recipe, classes: tuple[str, ...], world: World) -> nn.Module:
    """The network that training starts with: with new weights, those of `model.checkpoint` or timm's pretrained ones."""
    drop_path = recipe.train.drop_path
    if not recipe.model.starts_with_weights:
        return create_network(recipe.model, len(classes), drop_path, task=recipe.data.task)
    if recipe.model.pretrained:
        start = load_pretrained(recipe.model, classes, drop_path)
    else:
        start = load_checkpoint(recipe.model, classes, recipe.preprocess_spec(), drop_path, recipe.data.task)
    if world.rank == 0:
        say_loaded(start)
    return start.model


def _make_optimizer(model: nn.Module, part: TrainPart) -> torch.optim.Optimizer:
    """timm's optimizer, without weight decay for biases, norms and what the model's `no_weight_decay` names.

    InputError for one that does not exist or cannot be used here.
    """
    name = part.optimizer.lower().split("_")[-1]  # without `lookahead_`, as timm reads it
    if name in list_optimizers() and get_optimizer_info(name).second_order:
        raise _other_optimizer("train.optimizer needs second derivatives, which are not computed", part.optimizer)
    # Without torch's fused kernels, which only these two have, a small network's update takes a fifth of the step.
    options = {"fused": True} if part.optimizer in ("adam", "adamw") else {}
    groups = model if part.backbone_lr_ratio == 1 else _split_groups(model, part)
    try:
        return create_optimizer_v2(groups, opt=part.optimizer, lr=part.lr, weight_decay=part.weight_decay, **options)
    except (ValueError, ImportError, AssertionError) as error:  # timm raises the last two for a missing package or GPU
        if name not in list_optimizers():
            raise _other_optimizer("timm has no such optimizer", part.optimizer) from error
        if _works_here(name):
            raise
        raise _other_optimizer("train.optimizer does not work here", f"{part.optimizer}: {error}") from error


def _other_optimizer(what: str, got: str) -> InputError:
    usable = ", ".join(name for name in list_optimizers() if _works_here(name))
    return InputError(what, got=got, allowed=usable, next_step="change train.optimizer in the recipe")


def _works_here(name: str) -> bool:
    """Whether one of timm's optimizers can be used here: some need a GPU with apex or bitsandbytes."""
    try:
        get_optimizer_class(name)
    except (ImportError, AssertionError):
        return False
    return not get_optimizer_info(name).second_order


def _split_groups(model: nn.Module, part: TrainPart) -> list[dict[str, Any]]:
    """timm's parameter groups, each split into classifier or decoder, and the rest, at `backbone_lr_ratio` · `lr`.

    timm's schedulers multiply a group's learning rate by its `lr_scale`.
    """
    skip: set[str] = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    groups = param_groups_weight_decay(model, part.weight_decay, skip)
    named = dict(model.named_parameters())
    classifier = {id(named[name]) for name in new_in_transfer(model) if name in named}
    split = []
    for group in groups:
        for scale, inside in ((1.0, True), (part.backbone_lr_ratio, False)):
            params = [param for param in group["params"] if (id(param) in classifier) == inside]
            if params:
                split.append(group | {"params": params, "lr_scale": scale})
    return split


def _moving_average(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """The moving average of the weights; None for decay 0. The decay rises to `decay` as 1 − (1 + step)^−¾: 0.994 after
    1,000 steps, 0.99996 after 775,000 (310 epochs of ImageNet in batches of 512). So the start weights of a short training
    do not stay in its average."""
    return ModelEmaV3(model, decay=decay, use_warmup=True, warmup_power=3 / 4) if decay > 0 else None
