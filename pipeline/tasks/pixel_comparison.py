"""How an engine's class maps differ from the reference's: which classes, and in which images most."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from calib.masks import IGNORED
from pipeline.tasks.comparison import engines_to_judge
from pipeline.tasks.pixels import NO_CLASS, Map, class_iou, iou_differences, overlap

IMAGES_SHOWN = 6
CONFUSIONS_SHOWN = 10
NOT_FINITE = "NaN or Inf"


def compare_maps(
    ours: Map, reference: Map, masks: Map, classes: Sequence[str], images: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    """`comparison` of one variant of report.json: maps (N, H, W) of the engine and of the reference, masks alike.

    `gained` and `lost` count pixels that only one of the two gets right, `smallest_drop_pp` is what these images would show:
    half the width of the 95 % interval of the difference. `images` holds those with most differing pixels.
    """
    if not ours.shape == reference.shape == masks.shape or len(images) != len(ours):
        raise ValueError(
            f"got maps {ours.shape} and {reference.shape}, masks {masks.shape} and {len(images)} images: they do not belong "
            "to one evaluation"
        )
    mine, before = overlap(ours, masks, len(classes)), overlap(reference, masks, len(classes))
    right, right_before = (ours == masks) & (masks != IGNORED), (reference == masks) & (masks != IGNORED)
    low, high = np.percentile(iou_differences(mine, before), [2.5, 97.5])
    return {
        "gained_pixels": int((right & ~right_before).sum()), "lost_pixels": int((right_before & ~right).sum()),
        "smallest_drop_pp": float(high - low) / 2,
        "per_class": _per_class(class_iou(mine), class_iou(before), before.truth.sum(axis=0), classes),
        "confusion_moved": _confusion_moved(ours, reference, masks, classes),
        "images": _most_changed(ours, reference, masks, images),
    }  # fmt: skip


def enough_images(
    variants: Sequence[dict[str, Any]], images: int, reference_miou: float, share: float
) -> dict[str, Any]:  # fmt: skip
    """`enough_images` of report.json: whether these images would show a drop as large as the gate allows.

    Asked of the same engines as for classification. The interval's width falls with the root of the number of images, from
    which follows how many are needed. `share` is the gate's.
    """
    drops: list[float] = [variant["comparison"]["smallest_drop_pp"] for variant in engines_to_judge(variants)]
    allowed = reference_miou * (1 - share)
    smallest = max(drops) if drops else None
    needed = math.ceil(images * (smallest / allowed) ** 2) if smallest is not None and allowed > 0 else None
    return {
        "images": images, "smallest_drop_pp": smallest, "gate_drop_pp": allowed,
        "images_needed": None if needed is None else max(1, needed),
        "enough": smallest is not None and smallest <= allowed,
    }  # fmt: skip


def _per_class(mine: Any, before: Any, pixels: Any, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Every class that is in the masks, in the order of the classes."""
    return [
        {"label": name, "pixels": int(pixels[index]), "reference_iou": float(before[index]), "iou": float(mine[index])}
        for index, name in enumerate(classes)
        if pixels[index]
    ]


def _confusion_moved(ours: Map, reference: Map, masks: Map, classes: Sequence[str]) -> list[dict[str, Any]]:
    """(class of the mask, other class) pairs whose number of pixels changed most."""
    now, before = (_confusion(maps, masks, len(classes)) for maps in (ours, reference))
    change = np.abs(now - before)
    change[np.arange(len(classes)), np.arange(len(classes))] = 0
    order = np.argsort(-change, axis=None, kind="stable")[:CONFUSIONS_SHOWN]
    pairs = [divmod(int(index), change.shape[1]) for index in order if change.flat[index]]
    return [
        {"label": classes[label], "predicted": _name(predicted, classes), "reference": int(before[label, predicted]),
         "engine": int(now[label, predicted])}
        for label, predicted in pairs
    ]  # fmt: skip


def _confusion(maps: Map, masks: Map, classes: int) -> Any:
    """Pixels by class of the mask and of the map, (C, C + 1); the last column is of those without a class."""
    counted = masks != IGNORED
    found = np.where(maps == NO_CLASS, classes, maps)[counted].astype(np.int64)
    pairs = masks[counted].astype(np.int64) * (classes + 1) + found
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _name(index: int, classes: Sequence[str]) -> str:
    return NOT_FINITE if index == len(classes) else classes[index]


def _most_changed(ours: Map, reference: Map, masks: Map, images: Sequence[str]) -> list[dict[str, Any]]:
    """Images by the share of pixels that have another class than the reference gives them, largest first; those with none
    are left out."""
    counted = masks != IGNORED

    def share(flags: Any, index: int) -> float:
        return 100.0 * float(flags[index][counted[index]].mean()) if counted[index].any() else 0.0

    differ = [100.0 * float((ours[index] != reference[index]).mean()) for index in range(len(ours))]
    order = np.argsort(-np.asarray(differ), kind="stable")[:IMAGES_SHOWN]
    return [
        {"image": images[index], "differing": differ[index], "reference_accuracy": share(reference == masks, index),
         "accuracy": share(ours == masks, index)}
        for index in order
        if differ[index] > 0
    ]  # fmt: skip
