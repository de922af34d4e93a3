"""Statistics of class maps: intersection over union, pixel accuracy, agreement, and the interval of a difference.

A map is uint8 (N, H, W): the class of each pixel, `NO_CLASS` where its logits are not finite. In masks, pixels of `IGNORED` do
not count.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.masks import IGNORED

NO_CLASS = 255
MOST_CLASSES = 255  # indices 0 to 254
RESAMPLES = 2000

Map = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Overlap:
    """Pixels of each image and class, (N, C) each: in mask and map, in the mask, in the map. Ignored pixels are in none."""

    both: Counts
    truth: Counts
    found: Counts


def class_map(logits: NDArray[np.float32]) -> Map:
    """(N, C, H, W) → (N, H, W): the largest class of each pixel, the first of equal ones; `NO_CLASS` where one is not finite."""
    if logits.ndim != 4 or not 0 < logits.shape[1] <= MOST_CLASSES:
        raise ValueError(f"logits have shape {logits.shape}, wanted (images, at most {MOST_CLASSES} classes, H, W)")
    found = logits.argmax(axis=1).astype(np.uint8)
    finite = np.isfinite(logits).all(axis=1)
    return np.where(finite, found, np.uint8(NO_CLASS))


def overlap(maps: Map, masks: Map, classes: int | None = None) -> Overlap:
    """Count the pixels of `maps` and `masks` of one shape (N, H, W); without `classes`, those up to the masks' highest."""
    if maps.shape != masks.shape or maps.ndim != 3:
        raise ValueError(f"maps have shape {maps.shape}, masks {masks.shape}, wanted one shape (images, H, W)")
    count = classes if classes is not None else 1 + int(np.max(masks, where=masks != IGNORED, initial=0))
    rows = [_of_image(found, truth, count) for found, truth in zip(maps, masks, strict=True)]
    both, truth, found = (np.stack([row[part] for row in rows]) for part in range(3))
    return Overlap(both, truth, found)


def _of_image(found: Map, truth: Map, classes: int) -> tuple[Counts, Counts, Counts]:
    counted = truth != IGNORED
    truth, found = truth[counted], found[counted]
    values = (truth[truth == found], truth, found)
    both, mask, map_ = (np.bincount(of, minlength=MOST_CLASSES + 1)[:classes] for of in values)
    return both, mask, map_


def class_iou(found: Overlap) -> NDArray[np.float64]:
    """Percent, (C,): intersection over union over all images; NaN for a class that is in no mask."""
    return _iou(found.both.sum(axis=0), found.truth.sum(axis=0), found.found.sum(axis=0))


def mean_iou(found: Overlap) -> float:
    """Percent: the mean over the classes that are in the masks (Everingham et al., IJCV 88, 2010, over the whole set)."""
    return float(np.nanmean(class_iou(found)))


def pixel_accuracy(found: Overlap) -> float:
    """Percent of the pixels that count with the class of the mask."""
    return 100.0 * float(found.both.sum() / found.truth.sum())


def pixel_agreement(ours: Map, others: Map) -> float:
    """Percent of pixels with the same class in both; one without a class in either is none."""
    if ours.shape != others.shape:
        raise ValueError(f"maps have shapes {ours.shape} and {others.shape}, wanted the same images")
    return 100.0 * float(((ours == others) & (ours != NO_CLASS)).mean())


def finite_images(maps: Map) -> float:
    """Share of images, 0–1, in which every pixel has a class."""
    return float((maps != NO_CLASS).reshape(len(maps), -1).all(axis=1).mean())


def iou_differences(
    ours: Overlap, reference: Overlap, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Percentage points, (resamples,): mIoU of ours less the reference's on images drawn with replacement, the same for both.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. What is drawn is images, because pixels of one
    one image are not independent; of images without a pixel that counts nothing is known, and none is drawn.
    """
    known = reference.truth.sum(axis=1) > 0
    ours, reference = (Overlap(of.both[known], of.truth[known], of.found[known]) for of in (ours, reference))
    images = int(known.sum())
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    values = [_iou(draws @ of.both, draws @ of.truth, draws @ of.found) for of in (ours, reference)]
    return np.asarray(np.nanmean(values[0], axis=1) - np.nanmean(values[1], axis=1))


def paired_iou_interval(ours: Overlap, reference: Overlap) -> tuple[float, float]:
    """95 % interval of the difference in mIoU, in percentage points: percentiles of `iou_differences`."""
    low, high = np.percentile(iou_differences(ours, reference), [2.5, 97.5])
    return float(low), float(high)


def _iou(both: Counts, truth: Counts, found: Counts) -> NDArray[np.float64]:
    """Percent, NaN where `truth` has no pixel."""
    union = truth + found - both
    return np.where(truth > 0, 100.0 * both / np.maximum(union, 1), np.nan)
