"""The calibration set: preprocessed real images in a plain npz, with the hash of the preprocessing that made them."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.images import ImageSplit, balanced_subset
from calib.preprocess import Image, Preprocess, load_batch


@dataclass(frozen=True)
class CalibrationSet:
    """uint8 images (N, H, W, 3) and their labels (N,)."""

    images: Image
    labels: NDArray[np.int64]


def make_calibration_set(split: ImageSplit, spec: Preprocess, count: int, seed: int, path: Path) -> CalibrationSet:
    """Draw `count` images class-balanced from `split`, preprocess them and write them to `path`."""
    chosen = balanced_subset(split, count, seed)
    images = load_batch([split.paths[index] for index in chosen], spec)
    labels = np.asarray([split.labels[index] for index in chosen], dtype=np.int64)
    names = [str(split.paths[index].relative_to(split.root)) for index in chosen]
    np.savez_compressed(
        path, images=images, labels=labels, names=np.asarray(names), preprocess_sha256=np.asarray(spec.sha256()),
        preprocess=np.asarray(json.dumps(spec.to_dict())),
    )  # fmt: skip
    return CalibrationSet(images, labels)


def load_calibration_set(path: Path, spec: Preprocess) -> CalibrationSet:
    """Read a calibration set; missing, unreadable or differently preprocessed data is an InputError, never replaced."""
    if not path.is_file():
        raise InputError(
            "the calibration set is missing",
            got=f"no file {path}",
            allowed="real images: nothing is calibrated on random data",
            next_step="t2t-edge calibrate",
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            images, labels = stored["images"], stored["labels"]
            preprocess_sha256, made_with = str(stored["preprocess_sha256"]), str(stored["preprocess"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            "the calibration set cannot be read",
            got=f"{path}: {error}",
            allowed="the npz that `t2t-edge calibrate` writes",
            next_step="t2t-edge calibrate",
        ) from error
    if preprocess_sha256 != spec.sha256():
        raise InputError(
            f"the calibration set {path} was preprocessed differently from what the network gets",
            got=made_with, allowed=json.dumps(spec.to_dict()), next_step="t2t-edge calibrate",
        )  # fmt: skip
    expected = (spec.height, spec.width, 3)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected or len(images) == 0:
        raise InputError(
            f"the calibration set {path} does not fit",
            got=f"{images.dtype} {images.shape}",
            allowed=f"uint8 (N, *{expected})",
        )
    return CalibrationSet(images, labels)
