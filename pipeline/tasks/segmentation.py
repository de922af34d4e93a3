"""Segmentation: a class for each pixel; of the logits the class maps are kept."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.images import ImageSplit
from calib.masks import MaskedSplit, load_masks, missing_classes, read_masked_split
from calib.precision.closeness import MIN_AGREEMENT
from calib.precision.search_limits import Limits
from calib.preprocess import Preprocess
from pipeline.tasks.pixel_comparison import compare_maps, enough_images
from pipeline.tasks.pixel_drop import PixelDrop, pixel_drop, pixel_images_needed
from pipeline.tasks.pixels import (
    Map,
    class_map,
    finite_images,
    mean_iou,
    overlap,
    paired_iou_interval,
    pixel_accuracy,
    pixel_agreement,
)
from pipeline.tasks.words import SEGMENTATION, Words


@dataclass(frozen=True)
class Segmentation:
    """Logits (N, C, H, W), class maps and masks uint8 (N, H, W); `pipeline.tasks.task.Task` says what each is for."""

    words: Words = SEGMENTATION

    def read_split(
        self, root: Path, split: str, classes: tuple[str, ...] | None = None, *, may_lack: bool = False
    ) -> MaskedSplit:
        return read_masked_split(root, split, classes, may_lack=may_lack)

    def labels(self, split: ImageSplit, chosen: slice, spec: Preprocess) -> Map:
        assert isinstance(split, MaskedSplit), "read_split gives no other"
        return load_masks(split, range(len(split))[chosen], spec)

    def absent(self, split: ImageSplit, labels: Map) -> tuple[str, ...]:
        return missing_classes(labels, split.classes)

    def output_shape(self, classes: int, height_width: tuple[int, int]) -> tuple[int, ...]:
        return (classes, *height_width)

    def answers(self, logits: NDArray[np.float32]) -> Map:
        return class_map(logits)

    def finite_fraction(self, answers: Map) -> float:
        return finite_images(answers)

    def scores(self, answers: Map, labels: Map) -> dict[str, float]:
        found = overlap(answers, labels)
        return {"miou": mean_iou(found), "pixel_accuracy": pixel_accuracy(found)}

    def agreement(self, ours: Map, others: Map) -> float:
        return pixel_agreement(ours, others)

    def other_images(self, reference: Map, found: Map) -> str:
        same = pixel_agreement(reference, found)
        return (
            ""
            if same >= MIN_AGREEMENT
            else f"{same:.2f} % of the pixels have the same class (at least {MIN_AGREEMENT:g} %)"
        )

    def interval(self, ours: Map, reference: Map, labels: Map) -> tuple[float, float]:
        return paired_iou_interval(overlap(ours, labels), overlap(reference, labels))

    def compare(
        self, ours: Map, reference: Map, labels: Map, classes: tuple[str, ...], images: tuple[str, ...]
    ) -> dict[str, Any]:
        return compare_maps(ours, reference, labels, classes, images)

    def enough_images(
        self, variants: Sequence[dict[str, Any]], images: int, reference_score: float, share: float
    ) -> dict[str, Any]:
        return enough_images(variants, images, reference_score, share)

    def drop(self, ours: Map, reference: Map, labels: Map) -> PixelDrop:
        return pixel_drop(ours, reference, labels)

    def images_needed(self, reference_score: float, limits: Limits) -> int | None:
        return pixel_images_needed(reference_score, limits)

    def labels_hash(self, labels: Map) -> str:
        return hashlib.sha256(labels.tobytes()).hexdigest()
