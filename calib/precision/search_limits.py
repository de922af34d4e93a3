"""What loss of accuracy a mix of precisions may have, judged on images that training has seen (docs/search.md)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_Z = 1.645  # one-sided 95 %


@dataclass(frozen=True)
class Comparison:
    """A mix against FP32 on the same `images`, in numbers of images.

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
    def fp32_top1(self) -> float:
        """Percent."""
        return 100 * self.right / self.images

    @property
    def top1(self) -> float:
        """Percent, of the mix."""
        return 100 * (self.right - self.lost + self.gained) / self.images

    @property
    def drop_pp(self) -> float:
        """FP32's top-1 minus the mix's, percentage points."""
        return 100 * (self.lost - self.gained) / self.images

    @property
    def agreement(self) -> float:
        """Percent of the images with FP32's answer."""
        return 100 * (1 - self.differing / self.images)


@dataclass(frozen=True)
class Limits:
    """The gate's least share of FP32's top-1, and the most points of top-1 that may be lost."""

    min_relative_top1: float
    max_drop_pp: float


def compare(ours: NDArray[np.float32], fp32: NDArray[np.float32], labels: NDArray[np.int64]) -> Comparison:
    """Compare logits (images, classes) of a mix with those of FP32, which must be finite; labels (images,)."""
    if not np.isfinite(fp32).all():
        raise RuntimeError("the FP32 network makes NaN or Inf on training images: nothing to compare with")
    finite = np.isfinite(ours).all(axis=1)
    answers, expected = ours.argmax(axis=1), fp32.argmax(axis=1)
    right, ours_right = expected == labels, finite & (answers == labels)
    return Comparison(
        images=len(labels), right=int(right.sum()), lost=int((right & ~ours_right).sum()),
        gained=int((~right & ours_right).sum()), differing=int((~finite | (answers != expected)).sum()),
        broken=int((~finite).sum()),
    )  # fmt: skip


def highest_drop_pp(found: Comparison) -> float:
    """The upper end of a one-sided 95 % interval of the drop on images like these, percentage points.

    The adjusted Wald interval of Agresti and Min (Statistics in Medicine 24, 2005: half an image more in each of the four
    cells), but every image with another answer counts as a changed one, whether its answer was right before or not.
    """
    return 100 * (found.lost - found.gained + CONFIDENCE_Z * _spread(found)) / (found.images + 2)


def lowest_drop_pp(found: Comparison) -> float:
    """The lower end of the same interval from the other side."""
    return 100 * (found.lost - found.gained - CONFIDENCE_Z * _spread(found)) / (found.images + 2)


def _spread(found: Comparison) -> float:
    """The standard deviation of lost − gained, in images."""
    net = found.lost - found.gained
    return math.sqrt(max(found.differing + 1 - net**2 / (found.images + 2), 0.0))


def allowed_pp(found: Comparison, limits: Limits) -> float:
    """The points of top-1 that the gate lets go."""
    return (1 - limits.min_relative_top1) * found.fp32_top1


def refusal(found: Comparison, limits: Limits) -> str:
    """Why a mix is refused; "" where it holds both limits.

    The drop on these images must be within `max_drop_pp`, and it must be sure (95 %) that the gate's allowance holds.
    """
    if found.broken:
        return f"NaN or Inf on {found.broken} of {found.images} images"
    if found.drop_pp > limits.max_drop_pp:
        return f"drop {found.drop_pp:.2f} points, at most {limits.max_drop_pp:g}"
    highest, allowed = highest_drop_pp(found), allowed_pp(found, limits)
    if highest > allowed:
        return f"drop up to {highest:.2f} points (95 %), the gate allows {allowed:.2f}"
    return ""


def hopeless(found: Comparison, limits: Limits) -> str:
    """Why a mix is out already on a few of the images, surely (95 %); "" where more must be looked at."""
    if found.broken:
        return f"NaN or Inf on {found.broken} of {found.images} images"
    lowest, most = lowest_drop_pp(found), max(limits.max_drop_pp, allowed_pp(found, limits))
    if lowest > most:
        return f"drop at least {lowest:.1f} points (95 %), at most {most:.2f}"
    return ""


def images_needed(found: Comparison, limits: Limits) -> int | None:
    """With fewer images not even a mix that changes no answer can be sure of the gate; None: with no number of them."""
    allowed = allowed_pp(found, limits)
    return None if allowed <= 0 else max(1, math.ceil(100 * CONFIDENCE_Z / allowed) - 2)
