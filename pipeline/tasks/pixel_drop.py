"""How much mIoU a mix of precisions loses against FP32, and what that says of other images (docs/search.md)."""

from dataclasses import dataclass

import numpy as np

from calib.precision.search_limits import Limits, allowed_pp
from pipeline.tasks.pixels import NO_CLASS, Map, iou_differences, mean_iou, overlap, pixel_agreement

# Percentiles of so many resampled images are within 5 % of what Student's t gives of their spread: √(1 − 1/32) · 1.645 / 1.696.
FEWEST_IMAGES = 32


@dataclass(frozen=True)
class PixelDrop:
    """`calib.precision.search_limits.Drop` for mIoU; the interval is that of the paired bootstrap over images."""

    images: int
    broken: int
    fp32_score: float
    score: float
    highest_drop_pp: float
    lowest_drop_pp: float
    agreement: float

    @property
    def drop_pp(self) -> float:
        """FP32's mIoU minus the mix's, percentage points."""
        return self.fp32_score - self.score


def pixel_drop(ours: Map, fp32: Map, masks: Map) -> PixelDrop:
    """Compare class maps (images, H, W) of a mix with those of FP32, in which every pixel must have a class; masks alike."""
    if (fp32 == NO_CLASS).any():
        raise RuntimeError("the FP32 network makes NaN or Inf on training images: nothing to compare with")
    mine, before = overlap(ours, masks), overlap(fp32, masks)
    lowest, highest = np.percentile(-iou_differences(mine, before), [5, 95])
    return PixelDrop(
        images=len(masks), broken=int((ours == NO_CLASS).any(axis=(1, 2)).sum()), fp32_score=mean_iou(before),
        score=mean_iou(mine), highest_drop_pp=float(highest), lowest_drop_pp=float(lowest),
        agreement=pixel_agreement(ours, fp32),
    )  # fmt: skip


def pixel_images_needed(fp32_miou: float, limits: Limits) -> int | None:
    """Fewer images say too little about others (`FEWEST_IMAGES`); None: with no number of them, where nothing may be lost.

    A mix that changes no pixel holds the gate on any number of images, so there is no number that the gate asks for.
    """
    return None if allowed_pp(fp32_miou, limits) <= 0 else FEWEST_IMAGES
