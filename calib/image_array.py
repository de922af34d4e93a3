"""An npz of images that somebody else made: taken only where dtype, shape and range are what the network gets."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.npz import UNREADABLE, StoredArray, open_array
from calib.preprocess import Preprocess

UNKNOWN = -1  # the label of an image whose class is not known
_SHOWN = 5  # examples in a message
_CHUNK_BYTES = 1 << 24  # how much of an npz is looked at at once


def open_images(source: Path, classes: int, spec: Preprocess) -> tuple[StoredArray, NDArray[np.int64] | None]:
    """The images and labels (None without any) of an npz; InputError unless they fit spec and classes."""
    try:
        stored = open_array(source, "images")
        with np.load(source, allow_pickle=False) as content:
            labels = content["labels"] if "labels" in content.files else None
            made_with = str(content["preprocess_sha256"]) if "preprocess_sha256" in content.files else None
        if stored.dtype != np.uint8 or stored.shape[1:] != (spec.height, spec.width, 3) or len(stored) == 0:
            raise _misfit(stored, spec)
        if max(int(chunk.max()) for chunk in stored.chunks(_rows(stored))) <= 1:
            raise InputError(
                f"the images of {source} do not fit", got="uint8 images that hold nothing but 0 and 1",
                allowed="0 to 255", next_step="multiply the 0–1 values by 255 and round before making them uint8",
            )  # fmt: skip
    except UNREADABLE as error:
        raise unreadable(source, error) from error
    if made_with is not None and made_with != spec.sha256():
        raise InputError(
            f"the images of {source} were preprocessed differently from what the network gets",
            got=f"preprocess_sha256 {made_with[:12]}…", allowed=f"{spec.sha256()[:12]}…: {spec.to_dict()}",
            next_step="make the npz again with this recipe's preprocessing",
        )  # fmt: skip
    if labels is None or (labels.dtype.kind == "i" and labels.size and (labels == UNKNOWN).all()):
        return stored, None
    if labels.dtype.kind not in "iu" or labels.shape != (len(stored),) or labels.min() < 0 or labels.max() >= classes:
        span = f", {labels.min()} to {labels.max()}" if labels.dtype.kind in "iu" and labels.size else ""
        raise InputError(
            f"the labels of {source} do not fit", got=f"{labels.dtype} {labels.shape}{span}",
            allowed=f"integers ({len(stored)},) from 0 to {classes - 1}, or no `labels`",
            next_step="save one class index for each image, in the order of the model's classes",
        )  # fmt: skip
    return stored, labels.astype(np.int64)


def _misfit(stored: StoredArray, spec: Preprocess) -> InputError:
    """Says what the array holds, NaN and infinity counted, and what mends it."""
    got, next_step = f"{stored.dtype} {stored.shape}", f"resize and crop them to {spec.height}×{spec.width} RGB"
    if stored.dtype.kind == "f" and len(stored):
        values, next_step = _describe_floats(stored)
        got += f", {values}"
    elif stored.dtype != np.uint8:
        next_step = "save the images as they are decoded, uint8 from 0 to 255"
    elif len(stored.shape) == 3:
        next_step = "repeat the grey channel: np.repeat(images[..., None], 3, axis=-1)"
    elif len(stored.shape) == 4 and stored.shape[1] == 3 and stored.shape[3] != 3:
        next_step = "put the channels last: images.transpose(0, 2, 3, 1)"
    return InputError(
        f"the images of {stored.path} do not fit", got=got,
        allowed=f"uint8 RGB (N, {spec.height}, {spec.width}, 3), 0 to 255", next_step=next_step,
    )  # fmt: skip


def _describe_floats(stored: StoredArray) -> tuple[str, str]:
    """(range, NaN and infinities in words, what to do about them)."""
    nan, infinite, low, high = 0, 0, np.inf, -np.inf
    bad: list[int] = []
    start = 0
    for chunk in stored.chunks(_rows(stored)):
        finite = np.isfinite(chunk)
        nan += int(np.isnan(chunk).sum())
        infinite += int(np.isinf(chunk).sum())
        if finite.any():
            low, high = min(low, float(chunk[finite].min())), max(high, float(chunk[finite].max()))
        rows = np.flatnonzero(~finite.reshape(len(chunk), -1).all(axis=1)) + start
        bad += rows.tolist()
        start += len(chunk)
    text = f"values from {low:.4g} to {high:.4g}" if low <= high else "no finite value"
    if bad:
        examples = ", ".join(map(str, bad[:_SHOWN])) + (", …" if len(bad) > _SHOWN else "")
        text += f", {nan} NaN and {infinite} infinite values in {len(bad)} images (rows {examples})"
        return text, "find out what made the NaN; then save uint8 images from 0 to 255"
    if low >= 0 and high <= 1:
        return text, "they look scaled to 0–1: save (images * 255).round().astype('uint8')"
    if low < 0:
        return text, "they look normalised: save them before that, as uint8; the exported graph normalises"
    return text, "save images.round().clip(0, 255).astype('uint8')"


def _rows(stored: StoredArray) -> int:
    """So many rows at a time as make 16 MB."""
    each = int(np.prod(stored.shape[1:], dtype=np.int64)) * stored.dtype.itemsize
    return max(1, _CHUNK_BYTES // max(1, each))


def unreadable(path: Path, error: BaseException) -> InputError:
    return InputError(
        "calibrate.source cannot be read", got=f"{path}: {error}",
        allowed="an npz without pickles, with `images`, uint8 RGB (N, H, W, 3), and `labels` where they are known",
        next_step="save it again: np.savez(path, images=images, labels=labels)",
    )  # fmt: skip
