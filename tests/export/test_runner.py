"""Graphs with a fixed batch take any number of images: what is run, and which rows are given back."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.runner import Arrays, TensorInfo, fixed_batch, in_fixed_batches

FIXED = (TensorInfo("images", (4, 2), "float32"),)
FREE = (TensorInfo("images", (None, 2), "float32"),)


@pytest.mark.parametrize(("count", "calls"), [(1, 1), (4, 1), (5, 2), (8, 2)])
def test_batches_are_filled_up_and_joined(count: int, calls: int) -> None:
    seen: list[int] = []

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        images = feeds["images"]
        seen.append(len(images))
        return {"logits": 2 * images, "pixels": images.reshape(-1)}

    images = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    found = in_fixed_batches(FIXED, {"images": images}, run)
    assert seen == [4] * calls
    np.testing.assert_array_equal(found["logits"], 2 * images)
    np.testing.assert_array_equal(
        found["pixels"][: 2 * count], images.reshape(-1)
    )  # no row for each image: all is given


def test_a_free_batch_is_run_as_it_is() -> None:
    images = np.zeros((7, 2), np.float32)
    found = in_fixed_batches(FREE, {"images": images}, lambda feeds: {"count": np.asarray(len(feeds["images"]))})
    assert found["count"] == 7 and fixed_batch(FREE) is None and fixed_batch(FIXED) == 4
