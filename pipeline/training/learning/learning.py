"""The interface of a task's training, and its two implementations by name."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from timm.data.mixup import Mixup
from torch import Tensor
from torch.utils.data import Dataset

from calib.errors import InputError
from calib.images import ImageSplit
from calib.preprocess import Preprocess
from pipeline.parts.train import TrainPart
from pipeline.training.learning.classes import ClassLearning
from pipeline.training.learning.masks import MaskLearning


class Learning(Protocol):
    """B images in a batch; targets are what a batch's labels, or mixed labels, are."""

    @property
    def off(self) -> dict[str, Any]:
        """Keys of `train` that this task has no use for, with the values that turn them off."""

    def train_images(self, split: ImageSplit, spec: Preprocess, part: TrainPart) -> Dataset[Any]:
        """Augmented samples by (epoch, index): a uint8 image (3, H, W) and its label, or the InputError of an unreadable one."""

    def val_images(self, split: ImageSplit, spec: Preprocess) -> Dataset[Any]:
        """The same by index, preprocessed as for engines."""

    def mixing(self, part: TrainPart, classes: int) -> Mixup | None:
        """What mixes the images of a batch, and their labels."""

    def loss(self, part: TrainPart) -> Callable[[Tensor, Tensor], Tensor]:
        """Of logits and targets, the mean over what counts."""

    def new_counts(self, models: int, classes: int) -> Tensor:
        """int64 zeros, which `count` fills and several processes add up."""

    def count(self, counts: Tensor, model: int, logits: Tensor, labels: Tensor) -> None:
        """Count a batch's logits of one of the models in, in place."""

    def scores(self, counts: Sequence[Any]) -> list[float]:
        """The score of each model in percent, of counts as nested lists."""


LEARNING: dict[str, Learning] = {"classification": ClassLearning(), "segmentation": MaskLearning()}


def check_augmentation(task: str, part: TrainPart) -> None:
    """InputError where the recipe asks for what a task's training does not have."""
    off = LEARNING[task].off
    asked = {key: getattr(part, key) for key in off if getattr(part, key) != off[key]}
    if asked:
        raise InputError(
            f"the training of {task} has no {', '.join(asked)}",
            got="; ".join(f"train.{key}: {value}" for key, value in asked.items()),
            allowed="; ".join(f"train.{key}: {'null' if off[key] is None else off[key]}" for key in asked),
            next_step="leave these keys out of the recipe",
        )  # fmt: skip
