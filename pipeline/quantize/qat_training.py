"""Quantization-aware training: the fake-quantized network (student) learns the FP32 network's answers (docs/qat.md).

It is the training of `pipeline.training` with another loss, few epochs and light augmentation: the same loaders, processes,
evaluation and log.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calib.errors import InputError
from calib.images import ImageSplit
from calib.masks import IGNORED
from export.quantize.fake_quantize import FakeQuantized
from pipeline.console.figures import counted
from pipeline.data.dataset import open_dataset
from pipeline.parts.train import QatPart, TrainPart
from pipeline.recipe import Recipe
from pipeline.tasks.words import Words
from pipeline.training.distributed import World
from pipeline.training.epochs import run_epochs
from pipeline.training.learning.learning import LEARNING
from pipeline.training.loader import Loaders, make_loaders
from pipeline.training.resume import training_identity
from pipeline.training.state import make_state
from pipeline.training.trainer import Trainer

QUANTIZE_KEYS = ("policy", "method", "percentile", "weight_bits", "include", "exclude")  # the result depends on these
MIN_SCALE = 0.8  # least share of the image in a random crop, so that a crop shows nearly what the image shows


@dataclass(frozen=True)
class Trained:
    """Top-1 in percent on so many evaluation `images`, and the loss of each epoch."""

    words: Words
    teacher_score: float
    before_score: float
    after_score: float
    losses: tuple[float, ...]
    seconds: float
    images: int

    def notes(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        score = self.words.score
        return {
            f"teacher_{score}": self.teacher_score, f"before_{score}": self.before_score, score: self.after_score,
            "losses": list(self.losses), "seconds": self.seconds,
        }  # fmt: skip


def train_student(recipe: Recipe, student: FakeQuantized, teacher: nn.Module, folder: Path, world: World) -> Trained:
    """Train `student` in place, on the device of `world`; `teacher` (eval mode) stays as it is.

    Writes `last.pt`, from which an interrupted training of the same recipe resumes, `metrics.csv` (the score is the
    fake-quantized student's) and `tensorboard/` into `folder`. RuntimeError where the loss is not finite.
    """
    torch.set_flush_denormal(True)  # as in training
    as_training = recipe.model_copy(update={"train": training_part(recipe.qat, recipe.train)})
    train_split, val_split = open_dataset(recipe.data)
    _check(recipe.qat, len(train_split), world)
    with closing(_loaders(as_training, train_split, val_split, world)) as loaders:
        state = make_state(student, as_training.train, len(loaders.train), world)
        teacher = teacher.to(world.device).requires_grad_(False)
        trainer = DistillingTrainer(as_training, loaders, len(train_split.classes), world, teacher, recipe.qat)
        before, teacher_score = trainer.measure([student, teacher], "evaluating FP32 and quantized")
        identity = training_identity(as_training, train_split.classes, len(train_split), world)
        quantize, own = recipe.quantize.model_dump(mode="json"), recipe.qat.model_dump(mode="json")
        identity |= {f"quantize.{key}": quantize[key] for key in QUANTIZE_KEYS}
        identity |= {f"qat.{key}": value for key, value in own.items() if key != "workers"}
        run_epochs(trainer, state, identity, folder)
    last = state.history[-1]
    assert last.val_score is not None
    losses = tuple(row.train_loss for row in state.history)
    seconds = sum(row.seconds for row in state.history)
    return Trained(trainer.words, teacher_score, before, last.val_score, losses, seconds, len(val_split))


def _loaders(recipe: Recipe, train: ImageSplit, val: ImageSplit, world: World) -> Loaders:
    return make_loaders(LEARNING[recipe.data.task], train, val, recipe.preprocess_spec(), recipe.train, world)


def training_part(part: QatPart, train: TrainPart) -> TrainPart:
    """`qat` as a `train` part: a cosine schedule from `lr` to 0 without warm-up, and crops of at least `MIN_SCALE`."""
    low, high = train.random_resize_scale
    return TrainPart(
        epochs=part.epochs, batch_size=part.batch_size, optimizer="adamw", lr=part.lr, min_lr=0,
        weight_decay=part.weight_decay, warmup_epochs=0, label_smoothing=0, mixup=0, cutmix=0, auto_augment=None,
        random_erasing=0, random_resize_scale=(max(low, MIN_SCALE), max(high, MIN_SCALE)),
        random_crop_padding=train.random_crop_padding, horizontal_flip=train.horizontal_flip, drop_path=0, ema_decay=0,
        clip_grad=part.clip_grad, amp="off", workers=part.workers, seed=part.seed,
    )  # fmt: skip


class DistillingTrainer(Trainer):
    """A trainer whose loss is the distance from a teacher's answers."""

    advice = "lower qat.lr, or set qat.clip_grad: 1.0"

    def __init__(self, recipe: Recipe, loaders: Loaders, classes: int, world: World, teacher: nn.Module, part: QatPart):
        super().__init__(recipe, loaders, classes, world)
        self.teacher, self.qat = teacher, part

    def compute_loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """As `distillation_loss`, with the teacher's logits of the same augmented images."""
        with torch.no_grad():
            answers = self.teacher(images)
        return distillation_loss(network(images), answers, targets, self.qat.distill, self.qat.temperature)


def distillation_loss(logits: Tensor, answers: Tensor, labels: Tensor, distill: float, temperature: float) -> Tensor:
    """distill · T² · KL(teacher ‖ student) at temperature T + (1 − distill) · cross-entropy (Hinton, arXiv 1503.02531).

    logits and answers (the teacher's logits) (N, classes), labels (N,) → mean over the batch. T² keeps the size of the
    gradient about the same at every temperature (section 2 of that paper). With a class for each pixel, (N, classes, H, W) and
    (N, H, W), pixels are what N was; those that are IGNORED in the masks have no label, and the teacher's answer all the same.
    """
    if logits.ndim > 2:
        logits, answers = (values.movedim(1, -1).flatten(0, -2) for values in (logits, answers))
        labels = labels.flatten().long()
    log_student = F.log_softmax(logits / temperature, 1)
    log_teacher = F.log_softmax(answers / temperature, 1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    loss = distill * temperature**2 * divergence
    return loss if distill == 1 else loss + (1 - distill) * _entropy(logits, labels)


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the labels that count; 0 where none does."""
    together = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return together / (labels != IGNORED).sum().clamp(min=1)


def _check(part: QatPart, images: int, world: World) -> None:
    share = images // world.size
    if part.batch_size > share:
        raise InputError(
            "qat.batch_size is larger than a process's share of the training images", got=part.batch_size,
            allowed=f"at most {share} ({counted(images, 'image')}, {counted(world.size, 'process')})",
            next_step="lower qat.batch_size",
        )  # fmt: skip
