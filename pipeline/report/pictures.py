"""The pictures of what the engines change, task by task: made here, shown by `pipeline.report.page.page.CHANGES`."""

from collections.abc import Callable
from typing import Any

from calib.images import ImageSplit
from calib.preprocess import Preprocess
from pipeline.report.strips import strips
from pipeline.report.thumbnails import thumbnails
from pipeline.report.values.details import Answers, flipped
from pipeline.tasks.words import CLASSIFICATION, SEGMENTATION


def flips(report: dict[str, Any], answers: Answers, split: ImageSplit, spec: Preprocess) -> dict[str, bytes]:
    """PNGs of the images that an engine gets wrong and FP32 does not, by name."""
    images = flipped(report, split.root)
    return dict(zip(images, thumbnails(images.values(), spec), strict=True))


PICTURES: dict[str, Callable[[dict[str, Any], Answers, ImageSplit, Preprocess], Any]] = {
    CLASSIFICATION.task: flips,
    SEGMENTATION.task: strips,
}
