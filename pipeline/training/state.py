"""Everything that changes during training, and how it begins."""

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
from pipeline.training.network import classifier_names, create_network
from pipeline.training.weights import load_checkpoint, say_loaded


@dataclass(frozen=True)
class Position:
    """How far the running epoch is: updates done, each process's sum of losses, updates left out, seconds so far."""

    update: int = 0
    loss_sums: tuple[float, ...] = ()
    skipped: int = 0
    seconds: float = 0.0

    @property
    def loss_sum(self) -> float:
        """Over all processes."""
        return sum(self.loss_sums, 0.0)

    def loss_of(self, world: World) -> float:
        """What this process goes on from; with another number of processes than before, the first takes it all."""
        if len(self.loss_sums) == world.size:
            return self.loss_sums[world.rank]
        return self.loss_sum if world.rank == 0 else 0.0


@dataclass
class TrainingState:
    """`model` is the bare network (not DDP, not compiled) on the device, `ema` the moving average of its weights.

    Neither the schedule nor any random state is kept: both follow from epoch and step (see `pipeline.training.loader`).
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
        """The network that training hands on: the average where there is one."""
        return self.ema.module if self.ema is not None else self.model


def new_state(recipe: Recipe, classes: tuple[str, ...], updates_per_epoch: int, world: World) -> TrainingState:
    """A network with fresh weights, or those of `model.checkpoint`, and what trains it."""
    torch.manual_seed(recipe.train.seed)  # the same first weights in every process
    return make_state(_first_weights(recipe, classes, world), recipe.train, updates_per_epoch, world)


def make_state(model: nn.Module, part: TrainPart, updates_per_epoch: int, world: World) -> TrainingState:
    """What trains `model`, which is moved to the device."""
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
    """The network that training starts with: fresh, or with the weights of `model.checkpoint`."""
    drop_path = recipe.train.drop_path
    if recipe.model.checkpoint is None:
        return create_network(recipe.model, len(classes), drop_path)
    start = load_checkpoint(recipe.model, classes, recipe.preprocess_spec(), drop_path)
    if world.rank == 0:
        say_loaded(start)
    return start.model


def _make_optimizer(model: nn.Module, part: TrainPart) -> torch.optim.Optimizer:
    """timm's optimizer; it leaves biases, norms and what the model's `no_weight_decay` names without decay.

    InputError for one that there is not, or that cannot be used here.
    """
    name = part.optimizer.lower().split("_")[-1]  # as timm reads it: without `lookahead_`
    if name in list_optimizers() and get_optimizer_info(name).second_order:
        raise _other_optimizer("train.optimizer needs second derivatives, which are not computed", part.optimizer)
    # torch's fused kernels: a small network's update costs a fifth of the step without them. Other optimizers have none.
    options = {"fused": True} if part.optimizer in ("adam", "adamw") else {}
    groups = model if part.backbone_lr_ratio == 1 else _split_groups(model, part)
    try:
        return create_optimizer_v2(groups, opt=part.optimizer, lr=part.lr, weight_decay=part.weight_decay, **options)
    except (ValueError, ImportError, AssertionError) as error:  # the last two are how timm says what is missing
        if name not in list_optimizers():
            raise _other_optimizer("timm has no such optimizer", part.optimizer) from error
        if _works_here(name):
            raise
        raise _other_optimizer("train.optimizer does not work here", f"{part.optimizer}: {error}") from error


def _other_optimizer(what: str, got: str) -> InputError:
    usable = ", ".join(name for name in list_optimizers() if _works_here(name))
    return InputError(what, got=got, allowed=usable, next_step="change train.optimizer in the recipe")


def _works_here(name: str) -> bool:
    """Whether one of timm's optimizers needs nothing that is missing: some want a GPU with apex or bitsandbytes."""
    try:
        get_optimizer_class(name)
    except (ImportError, AssertionError):
        return False
    return not get_optimizer_info(name).second_order


def _split_groups(model: nn.Module, part: TrainPart) -> list[dict[str, Any]]:
    """timm's groups, each split in classifier and the rest; the rest learns `backbone_lr_ratio` as fast.

    `lr_scale` is what timm's schedulers multiply a group's learning rate with.
    """
    skip: set[str] = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    groups = param_groups_weight_decay(model, part.weight_decay, skip)
    named = dict(model.named_parameters())
    classifier = {id(named[name]) for name in classifier_names(model) if name in named}
    split = []
    for group in groups:
        for scale, inside in ((1.0, True), (part.backbone_lr_ratio, False)):
            params = [param for param in group["params"] if (id(param) in classifier) == inside]
            if params:
                split.append(group | {"params": params, "lr_scale": scale})
    return split


def _moving_average(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """Decay 0 means none. It rises as 1 − (1 + step)^−¾: 0.994 after 1,000 steps, 0.99996 after 775,000 (310 epochs of
    ImageNet in batches of 512), so that a short training is not averaged with its first weights."""
    return ModelEmaV3(model, decay=decay, use_warmup=True, warmup_power=3 / 4) if decay > 0 else None
