"""The calibration set: real images only, and only those preprocessed as the network's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calib.calibration import load_calibration_set, make_calibration_set
from calib.errors import InputError
from calib.images import read_split
from calib.preprocess import Preprocess


def test_round_trip(image_root: Path, spec: Preprocess, tmp_path: Path) -> None:
    made = make_calibration_set(read_split(image_root, "train"), spec, 12, 0, tmp_path / "c.npz")
    read = load_calibration_set(tmp_path / "c.npz", spec)
    assert (read.images == made.images).all() and read.images.shape == (12, 32, 32, 3)
    assert np.bincount(read.labels).tolist() == [4, 4, 4]


def test_other_preprocessing_is_an_error(image_root: Path, spec: Preprocess, tmp_path: Path) -> None:
    make_calibration_set(read_split(image_root, "train"), spec, 6, 0, tmp_path / "c.npz")
    with pytest.raises(InputError, match="preprocessed differently"):
        load_calibration_set(tmp_path / "c.npz", replace(spec, mean=(0.5, 0.5, 0.5)))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is missing"), (b"PK\x03\x04 cut", "cannot be read"), (b"", "cannot be read")]
)
def test_missing_or_broken_is_an_error(spec: Preprocess, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_calibration_set(tmp_path / "c.npz", spec)
