"""The loop over one epoch, and the evaluation after it."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import islice

import torch
from timm.data.random_erasing import RandomErasing
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn

from calib.errors import InputError
from pipeline.console.figures import counted
from pipeline.console.progress import track
from pipeline.parts.train import TrainPart
from pipeline.recipe import Recipe
from pipeline.tasks.task import task_named
from pipeline.training.distributed import World
from pipeline.training.learning.learning import LEARNING
from pipeline.training.learning.samples import Batch, seed_all
from pipeline.training.loader import Loaders, Normalise, device_batches
from pipeline.training.log import EpochMetrics, TrainingLog
from pipeline.training.not_finite import NotFinite, Watch, finite
from pipeline.training.state import Position, TrainingState

_AMP = {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fit_batch(part: TrainPart, world: World) -> TrainPart:
    """`part` with a smaller `batch_size` where all processes together would take more than `global_batch` images.

    So more processes than the recipe was written for take fewer images each, and an update still has the same images. A
    `global_batch` that the number of processes does not divide is left for `accumulation` to refuse.
    """
    batch = part.global_batch
    if batch is None or part.batch_size * world.size <= batch or batch % world.size:
        return part
    return part.model_copy(update={"batch_size": batch // world.size})


def accumulation(part: TrainPart, world: World) -> int:
    """How many batches of each process make one update. InputError where that is not a whole number."""
    together = part.batch_size * world.size
    batch = part.global_batch or together
    if batch % together:
        smaller = f", or of {world.size} with smaller batches" if together > batch else ""
        raise InputError(
            "train.global_batch does not divide into the processes' batches",
            got=f"{batch}, with {counted(world.size, 'process')} of train.batch_size {part.batch_size}",
            allowed=f"a multiple of {together}{smaller}",
            next_step="change train.batch_size, train.global_batch or the number of processes",
        )  # fmt: skip
    return batch // together


class Trainer:
    """The updates of one epoch, and the evaluation after it. `updates` is their number in an epoch."""

    advice = "lower train.lr, set train.clip_grad: 1.0, train.amp: off, or train.on_nan: skip"  # against NaN

    def __init__(self, recipe: Recipe, loaders: Loaders, classes: int, world: World):
        part = recipe.train
        self.part, self.loaders, self.world = part, loaders, world
        self.accumulate = accumulation(part, world)
        self.updates = len(loaders.train) // self.accumulate
        self.normalise = Normalise(recipe.preprocess_spec(), world.device)
        self.erase = RandomErasing(part.random_erasing, mode="pixel", device=world.device)
        self.words = task_named(recipe.data.task).words
        self.learning, self.classes = LEARNING[recipe.data.task], classes
        self.mix = self.learning.mixing(part, classes)
        self.loss = self.learning.loss(part)

    def run_epoch(
        self, epoch: int, network: nn.Module, state: TrainingState, log: TrainingLog, save: Callable[[], None]
    ) -> None:
        """The rest of a pass over the training images from `state.position` on, then the evaluation when it is due; adds a
        row to the log.

        After every `save_every` updates it sets `state.position` and calls `save`, in every process.
        """
        started, first = time.monotonic(), state.position
        try:
            self._train_epoch(epoch, network, state, log, save, started)
            trained = time.monotonic() - started
            models = [state.model] if state.ema is None else [state.model, state.ema.module]
            scores: list[float] = self.measure(models) if self.part.evaluates_after(epoch) else []
        except (InputError, NotFinite) as error:
            if self.world.rank > 0:  # the command prints only rank 0's errors, and rank 0 does not know of this one
                print(f"process {self.world.rank} of {self.world.size}: error: {error}", file=sys.stderr, flush=True)
            raise
        images = (self.updates - first.update) * self.accumulate * self.part.batch_size * self.world.size
        end = state.position
        log.add_epoch(EpochMetrics(
            epoch=epoch + 1, lr=max(float(group["lr"]) for group in state.optimizer.param_groups),
            train_loss=end.loss_sum / (self.updates - end.skipped) / self.world.size,
            val_score=scores[0] if scores else None, ema_score=scores[1] if len(scores) > 1 else None,
            images_per_s=images / trained, seconds=first.seconds + time.monotonic() - started, skipped=end.skipped,
        ))  # fmt: skip
        state.position = Position()

    def _train_epoch(
        self, epoch: int, network: nn.Module, state: TrainingState, log: TrainingLog, save: Callable[[], None],
        started: float,
    ) -> None:  # fmt: skip
        """The updates from `state.position` to the end of the epoch, where `state.position` is afterwards."""
        first = state.position
        images = self.accumulate * self.part.batch_size  # in an update of this process
        self.loaders.sampler.start(epoch, first.update * images, self.updates * images)
        network.train()
        watch = Watch(log, self.loaders.sampler, self.part, self.world, self.advice)
        loss_sum = torch.tensor(first.loss_of(self.world), device=self.world.device)
        skipped = first.skipped
        batches = device_batches(self.loaders.train, self.world.device)
        for update in range(first.update, self.updates):
            together = list(islice(batches, self.accumulate))
            loss, kept = self._update(epoch, update, together, network, state)
            if kept:
                loss_sum += loss
                watch.follow(epoch, update, loss, together)
            else:
                skipped += 1
                watch.skip(epoch, update, loss, together)
            at_end = update + 1 == self.updates
            if at_end or (self.part.save_every and (update + 1) % self.part.save_every == 0):
                watch.settle()
                watch.check_weights(state.model, epoch, update + 1)
                seconds = first.seconds + time.monotonic() - started
                state.position = Position(update + 1, tuple(self.world.gather(loss_sum)), skipped, seconds)
                if not at_end:
                    save()
        if skipped == self.updates:
            raise NotFinite(
                f"every update of epoch {epoch + 1} was left out: no loss was finite.\n  next: {self.advice}"
            )

    def _update(
        self, epoch: int, update: int, batches: Sequence[Batch], network: nn.Module, state: TrainingState
    ) -> tuple[Tensor, bool]:
        """One update of the weights from the gradients of all `batches`.

        Returns their mean loss, still on the device, and whether the update was made: `on_nan: skip` may leave it out.
        """
        total = epoch * self.updates + update
        state.scheduler.step_update(total)
        skips = self.part.on_nan == "skip"
        buffers = [buffer.clone() for buffer in state.model.buffers()] if skips else []
        losses = []
        for index, batch in enumerate(batches):
            last = index + 1 == len(batches)
            # average the gradients over the processes only once, with the last batch
            with nullcontext() if last else getattr(network, "no_sync", nullcontext)():
                loss = self._loss_of(epoch, update * len(batches) + index, batch, network)
                state.scaler.scale(loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        mean = torch.stack(losses).mean() if len(losses) > 1 else losses[0]
        if self.part.clip_grad is not None or skips:
            state.scaler.unscale_(state.optimizer)
        made = not skips or self._all_finite(mean, state)
        if made:
            if self.part.clip_grad is not None:
                dispatch_clip_grad(network.parameters(), self.part.clip_grad)
            state.scaler.step(state.optimizer)
        else:
            for buffer, before in zip(state.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        if made and state.ema is not None:
            state.ema.update(state.model, step=total + 1)
        return mean, made

    def _loss_of(self, epoch: int, step: int, batch: Batch, network: nn.Module) -> Tensor:
        """The loss of one batch of this process; `step` counts its batches in the epoch."""
        seed_all(self.part.seed, epoch, step=step, rank=self.world.rank)
        images, targets = self.normalise(batch[0]), batch[1]
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        images = self.erase(images)
        if self.part.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            return self.compute_loss(network, images, targets)

    def compute_loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch: normalised images (N, 3, H, W) and what the task has as targets, mixed labels among them."""
        return self.loss(network(images), targets)

    def _all_finite(self, loss: Tensor, state: TrainingState) -> bool:
        """Whether loss and gradient are finite in every process; the answer is the same in all of them.

        With float16 only the loss is checked: the scaler handles a gradient that overflows, by leaving the update out and
        scaling less.
        """
        sound = torch.isfinite(loss).all()
        if not state.scaler.is_enabled():
            grads = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
            sound = sound & finite(grads)
        return int(self.world.total(sound.long())) == self.world.size

    def _autocast(self) -> torch.autocast:
        dtype = _AMP[self.part.amp]
        return torch.autocast(self.world.device.type, dtype=dtype, enabled=dtype is not None)

    @torch.inference_mode()
    def measure(self, models: list[nn.Module], title: str | None = None) -> list[float]:
        """The score in percent of each model on all val images, each counted once, in float32 as at the accuracy gate.

        Shows its progress where it has a title: not after an epoch, when training shows its own.
        """
        for model in models:
            model.eval()
            self.world.share_buffers(model)
        counts = self.learning.new_counts(len(models), self.classes).to(self.world.device)
        batches = track(self.loaders.val, title) if title else self.loaders.val
        for images, labels in device_batches(batches, self.world.device):
            normalised = self.normalise(images)
            for index, model in enumerate(models):
                self.learning.count(counts, index, model(normalised), labels)
        return self.learning.scores(self.world.total(counts).tolist())
