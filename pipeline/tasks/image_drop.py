"""How many images a mix of precisions gets wrong that FP32 gets right, and what that says of other images (docs/search.md)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.precision.search_limits import Limits, allowed_pp

CONFIDENCE_Z = 1.645  # one-sided 95 %


@dataclass(frozen=True)
class ImageDrop:
    """A mix against FP32 on the same `images`, in numbers of images; `calib.precision.search_limits.Drop` for top-1.

    `lost` were right and are wrong now, `gained` the other way round; `differing` have another answer, right or wrong, or
    none: a row with NaN or Inf (`broken`) is wrong and differs.
    """

    images: int
    right: int
    lost: int
    gained: int
    differing: int
    broken: int

    @property
    def fp32_score(self) -> float:
        """FP32's top-1, percent."""
        return 100 * self.right / self.images

    @property
    def score(self) -> float:
        """The mix's top-1, percent."""
        return 100 * (self.right - self.lost + self.gained) / self.images

    @property
    def drop_pp(self) -> float:
        """FP32's top-1 minus the mix's, percentage points."""
        return 100 * (self.lost - self.gained) / self.images

    @property
    def agreement(self) -> float:
        """Percent of the images with FP32's answer."""
        return 100 * (1 - self.differing / self.images)

    @property
    def highest_drop_pp(self) -> float:
        """The upper end of a one-sided 95 % interval of the drop on images like these, percentage points.

        The adjusted Wald interval of Agresti and Min (Statistics in Medicine 24, 2005: half an image more in each of the four
        cells), but every image with another answer counts as a changed one, whether its answer was right before or not.
        """
        return 100 * (self.lost - self.gained + CONFIDENCE_Z * self._spread()) / (self.images + 2)

    @property
    def lowest_drop_pp(self) -> float:
        """The lower end of the same interval from the other side."""
        return 100 * (self.lost - self.gained - CONFIDENCE_Z * self._spread()) / (self.images + 2)

    def _spread(self) -> float:
        """The standard deviation of lost − gained, in images."""
        net = self.lost - self.gained
        return math.sqrt(max(self.differing + 1 - net**2 / (self.images + 2), 0.0))


def image_drop(ours: NDArray[np.float32], fp32: NDArray[np.float32], labels: NDArray[np.int64]) -> ImageDrop:
    """Compare logits (images, classes) of a mix with those of FP32, which must be finite; labels (images,)."""
    if not np.isfinite(fp32).all():
        raise RuntimeError("the FP32 network makes NaN or Inf on training images: nothing to compare with")
    finite = np.isfinite(ours).all(axis=1)
    answers, expected = ours.argmax(axis=1), fp32.argmax(axis=1)
    right, ours_right = expected == labels, finite & (answers == labels)
    return ImageDrop(
        images=len(labels), right=int(right.sum()), lost=int((right & ~ours_right).sum()),
        gained=int((~right & ours_right).sum()), differing=int((~finite | (answers != expected)).sum()),
        broken=int((~finite).sum()),
    )  # fmt: skip


def images_needed(fp32_top1: float, limits: Limits) -> int | None:
    """With fewer images not even a mix that changes no answer can be sure of the gate; None: with no number of them.

    `fp32_top1` in percent.
    """
    allowed = allowed_pp(fp32_top1, limits)
    return None if allowed <= 0 else max(1, math.ceil(100 * CONFIDENCE_Z / allowed) - 2)
