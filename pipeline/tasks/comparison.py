"""How an engine's answers differ from the reference's, image by image: which classes, which confusions, which images."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tasks.significance import holm, images_needed, mcnemar_p, smallest_drop
from pipeline.tasks.statistics import correct_rows, finite_rows

CLASSES_SHOWN = 20
CONFUSIONS_SHOWN = 10
FLIPS_SHOWN = 6
NOT_FINITE = "NaN or Inf"

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def compare(
    ours: Logits, reference: Logits, labels: Labels, classes: Sequence[str], images: Sequence[str]
) -> dict[str, Any]:
    """`comparison` of one variant of report.json: logits (N, C) of the engine and of the reference, labels (N,).

    `images` name the evaluation images in the same order. Each list holds the largest changes, largest first.
    """
    if not len(ours) == len(reference) == len(labels) == len(images) or ours.shape[1] != len(classes):
        raise ValueError(
            f"got logits {ours.shape} and {reference.shape}, {len(labels)} labels, {len(images)} images and "
            f"{len(classes)} classes: they do not belong to one evaluation"
        )
    right, right_before = correct_rows(ours, labels), correct_rows(reference, labels)
    gained, lost = int((right & ~right_before).sum()), int((~right & right_before).sum())
    per_class = _per_class(right, right_before, labels, classes)
    return {
        "gained": gained, "lost": lost, "mcnemar_p": mcnemar_p(gained, lost),
        "smallest_drop_pp": smallest_drop(len(labels), gained + lost),
        "classes_changed": len(per_class), "per_class": per_class[:CLASSES_SHOWN],
        "confusion_moved": _confusion_moved(_predicted(ours), _predicted(reference), labels, classes),
        "flips": _flips(ours, reference, np.flatnonzero(~right & right_before), labels, classes, images),
    }  # fmt: skip


def enough_images(
    variants: Sequence[dict[str, Any]], images: int, reference_top1: float, share: float
) -> dict[str, Any]:
    """`enough_images` of report.json: whether these images would show a drop as large as the gate allows.

    Asked of every engine that passes or, where none does, of every engine that was compared. `variants` have their
    `comparison`; `share` is the gate's.
    """
    chosen = engines_to_judge(variants)
    drops = [variant["comparison"]["smallest_drop_pp"] for variant in chosen]
    allowed = reference_top1 * (1 - share)
    changed = max((v["comparison"]["gained"] + v["comparison"]["lost"] for v in chosen), default=0) / images
    smallest = None if None in drops or not drops else max(drops)
    enough = smallest is not None and smallest <= allowed
    needed = images_needed(allowed, changed) if allowed > 0 else None
    if needed is not None and not enough:  # the formula is approximate, and these images are known to be too few
        needed = max(needed, images + 1)
    return {
        "images": images, "smallest_drop_pp": smallest, "gate_drop_pp": allowed,
        "images_needed": needed,
        "enough": enough,
    }  # fmt: skip


def engines_to_judge(variants: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The engines with a `comparison` that pass or, where none does, all that have one."""
    judged = [variant for variant in variants if "comparison" in variant]
    return [variant for variant in judged if variant["status"] == "pass"] or judged


def _predicted(logits: Logits) -> Labels:
    """Largest class of each row; −1 where the row is not finite."""
    return np.where(finite_rows(logits), logits.argmax(axis=1), -1)


def _per_class(
    right: NDArray[np.bool_], right_before: NDArray[np.bool_], labels: Labels, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Every class with an image that changed between right and wrong; p is adjusted for the number of these classes."""
    rows: list[dict[str, Any]] = []
    for label, name in enumerate(classes):
        own = labels == label
        gained, lost = int((own & right & ~right_before).sum()), int((own & ~right & right_before).sum())
        if gained or lost:
            rows.append({
                "label": name, "images": int(own.sum()), "reference_top1": 100 * float(right_before[own].mean()),
                "top1": 100 * float(right[own].mean()), "gained": gained, "lost": lost, "p": mcnemar_p(gained, lost),
            })  # fmt: skip
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p"] = p
    return sorted(rows, key=lambda row: (-abs(row["top1"] - row["reference_top1"]), -row["gained"] - row["lost"]))


def _confusion_moved(ours: Labels, reference: Labels, labels: Labels, classes: Sequence[str]) -> list[dict[str, Any]]:
    """(true class, wrong class) pairs whose number of images changed most."""
    wrong_now, wrong_before = (
        Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
        for predicted, wrong in ((ours, ours != labels), (reference, reference != labels))
    )
    moved = [pair for pair in wrong_now.keys() | wrong_before.keys() if wrong_now[pair] != wrong_before[pair]]
    moved.sort(key=lambda pair: (-abs(wrong_now[pair] - wrong_before[pair]), pair))
    return [
        {"label": classes[label], "predicted": _name(predicted, classes), "reference": wrong_before[label, predicted],
         "engine": wrong_now[label, predicted]}
        for label, predicted in moved[:CONFUSIONS_SHOWN]
    ]  # fmt: skip


def _flips(
    ours: Logits,
    reference: Logits,
    lost: NDArray[np.intp],
    labels: Labels,
    classes: Sequence[str],
    images: Sequence[str],
) -> list[dict[str, Any]]:
    """Images that the reference gets right and the engine wrong; first those whose true class lost most probability."""
    before, after = _softmax(reference[lost]), _softmax(ours[lost])
    predicted, rows = _predicted(ours[lost]) if len(lost) else np.zeros(0, np.int64), np.arange(len(lost))
    fall = before[rows, labels[lost]] - np.nan_to_num(after[rows, labels[lost]], nan=0.0)
    return [
        {
            "image": images[lost[row]], "label": classes[labels[lost[row]]],
            "reference_probability": float(before[row, labels[lost[row]]]),
            "predicted": _name(int(predicted[row]), classes),
            "probability": None if predicted[row] < 0 else float(after[row, predicted[row]]),
        }
        for row in np.argsort(-fall, kind="stable")[:FLIPS_SHOWN]
    ]  # fmt: skip


def _softmax(logits: Logits) -> NDArray[np.float64]:
    """(N, C), NaN throughout in the rows that are not finite."""
    values = np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits.astype(np.float64), np.nan)
    powers = np.exp(values - values.max(axis=1, keepdims=True)) if len(values) else values
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _name(index: int, classes: Sequence[str]) -> str:
    return NOT_FINITE if index < 0 else classes[index]
