"""What a report says of each task beyond its words: whether FP32's score could be luck, and how its figures are counted."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.console.figures import number
from pipeline.tasks.words import CLASSIFICATION, SEGMENTATION, Words


@dataclass(frozen=True)
class TaskTexts:
    """`luck(report, classes)` is said of a network whose FP32 score says nothing, "" of any other; `counted` follows on what
    is said of the interval."""

    luck: Callable[[dict[str, Any], int], str]
    counted: str
    score_in_full: str


def reference_score(report: dict[str, Any], words: Words) -> float | None:
    """FP32's score, percent, from any engine's and its difference; None where no engine was judged."""
    found = [v[words.score] - v[words.delta] for v in report["variants"] if v[words.score] is not None]
    return found[0] if found else None


def _like_guessing(report: dict[str, Any], classes: int) -> str:
    """Guessing among C classes has top-1 1/C, with a standard deviation of √(1/C · (1 − 1/C) / N) on N images; up to 1.645 of
    these above it (one-sided, 95 %) is no better than guessing."""
    found, images = reference_score(report, CLASSIFICATION), report["dataset"]["eval_images"]
    if found is None or images == 0 or classes < 2:
        return ""
    chance = 1 / classes
    if found / 100 > chance + 1.645 * math.sqrt(chance * (1 - chance) / images):
        return ""
    return (
        f"But FP32's top-1 of {number(found)} % is no better than guessing among {classes} classes: the network is hardly "
        "trained, or its classes or its preprocessing are not those of these images"
    )


def _like_one_class(report: dict[str, Any], classes: int) -> str:
    """Every pixel of the most frequent class gives that class the IoU of its share of the pixels, and the others 0.

    Known where engines were compared: their rows count the pixels of every class in the masks.
    """
    found = reference_score(report, SEGMENTATION)
    compared = [v["comparison"]["per_class"] for v in report["variants"] if "comparison" in v]
    if found is None or not compared or len(compared[0]) < 2:
        return ""
    pixels = {row["label"]: row["pixels"] for row in compared[0]}
    most = max(pixels, key=lambda label: pixels[label])
    trivial = 100 * pixels[most] / sum(pixels.values()) / len(pixels)
    if found > trivial:
        return ""
    return (
        f"But FP32's mIoU of {number(found)} % is no better than calling every pixel {most}, which has {number(trivial)} %: the "
        "network is hardly trained, or its classes or its preprocessing are not those of these images"
    )


TEXTS = {
    CLASSIFICATION.task: TaskTexts(
        _like_guessing,
        "Agreement is the share of images with the same top-1 class. A NaN or an infinity among an image's logits counts as "
        "wrong.",
        "top-1 accuracy",
    ),
    SEGMENTATION.task: TaskTexts(
        _like_one_class,
        "mIoU is the mean, over the classes that are in the masks, of intersection over union over all images; pixels that the "
        "masks leave out (255) count nowhere. Agreement is the share of pixels with the same class. A NaN or an infinity among "
        "a pixel's logits counts as wrong.",
        "mIoU",
    ),
}
