"""Classification: a label for each image; logits are kept as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.images import ImageSplit, read_split
from calib.precision.closeness import LIMITS, compare_logits
from calib.precision.search_limits import Limits
from calib.preprocess import Preprocess
from pipeline.tasks.comparison import compare, enough_images
from pipeline.tasks.image_drop import ImageDrop, image_drop, images_needed
from pipeline.tasks.statistics import accuracy, agreement, correct_rows, finite_fraction, paired_interval
from pipeline.tasks.words import CLASSIFICATION, Words

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Classification:
    """Logits (N, C), labels (N,); `pipeline.tasks.task.Task` says what each is for."""

    words: Words = CLASSIFICATION

    def read_split(
        self, root: Path, split: str, classes: tuple[str, ...] | None = None, *, may_lack: bool = False
    ) -> ImageSplit:
        return read_split(root, split, classes, may_lack=may_lack)

    def labels(self, split: ImageSplit, chosen: slice, spec: Preprocess) -> Labels:
        return np.asarray(split.labels[chosen], dtype=np.int64)

    def absent(self, split: ImageSplit, labels: Labels) -> tuple[str, ...]:
        return split.without_images()

    def output_shape(self, classes: int, height_width: tuple[int, int]) -> tuple[int, ...]:
        return (classes,)

    def answers(self, logits: Logits) -> Logits:
        return logits

    def finite_fraction(self, answers: Logits) -> float:
        return finite_fraction(answers)

    def scores(self, answers: Logits, labels: Labels) -> dict[str, float]:
        return {"top1": accuracy(answers, labels), "top5": accuracy(answers, labels, k=5)}

    def agreement(self, ours: Logits, others: Logits) -> float:
        return agreement(ours, others)

    def other_images(self, reference: Logits, found: Logits) -> str:
        closeness = compare_logits(reference, found)  # few images: one other top-1 among them is no sign
        return "" if closeness.near else f"{closeness} (allowed: {LIMITS})"

    def interval(self, ours: Logits, reference: Logits, labels: Labels) -> tuple[float, float]:
        return paired_interval(correct_rows(ours, labels), correct_rows(reference, labels))

    def compare(
        self, ours: Logits, reference: Logits, labels: Labels, classes: tuple[str, ...], images: tuple[str, ...]
    ) -> dict[str, Any]:
        return compare(ours, reference, labels, classes, images)

    def enough_images(
        self, variants: Sequence[dict[str, Any]], images: int, reference_score: float, share: float
    ) -> dict[str, Any]:
        return enough_images(variants, images, reference_score, share)

    def drop(self, ours: Logits, reference: Logits, labels: Labels) -> ImageDrop:
        return image_drop(ours, reference, labels)

    def images_needed(self, reference_score: float, limits: Limits) -> int | None:
        return images_needed(reference_score, limits)

    def labels_hash(self, labels: Labels) -> str:
        return ""  # the label of an image is the folder it is in
