"""What report.json holds of each task, and that an engine's scores are those of what it changes."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.report.values.schema_common import (
    Count,
    Difference,
    Moved,
    Part,
    Percent,
    Probability,
    Report,
    Text,
    Variant,
)
from pipeline.tasks.words import CLASSIFICATION, SEGMENTATION, Words

_CLOSE = 1e-6  # percentage points, of sums in another order


class _TopGate(Part):
    min_relative_top1: Annotated[float, Field(ge=0, le=1)]


class _Changed(Part):
    """A class of which images changed between right and wrong."""

    label: Text
    images: Count
    reference_top1: Percent
    top1: Percent
    gained: Count
    lost: Count
    p: Probability


class _Flip(Part):
    """An image that the reference gets right and the engine wrong; `probability` is null where it gave none."""

    image: Text
    label: Text
    reference_probability: Probability
    predicted: Text
    probability: Probability | None


class _ImageComparison(Part):
    """Against the reference, image by image; the lists hold the largest changes only."""

    gained: Count
    lost: Count
    mcnemar_p: Probability
    smallest_drop_pp: Percent | None
    classes_changed: Count
    per_class: list[_Changed]
    confusion_moved: list[Moved]
    flips: list[_Flip]


class _TopVariant(Variant):
    WORDS: ClassVar[Words] = CLASSIFICATION

    top1: Percent | None
    top5: Percent | None
    delta_top1_pp: Difference | None
    comparison: _ImageComparison | None = None


class _TopReference(Part):
    name: Text
    top1: Percent
    top5: Percent


class _TopReport(Report):
    gate: _TopGate
    variants: list[_TopVariant]
    reference: _TopReference | None = None

    @model_validator(mode="after")
    def _comparisons_fit(self) -> "_TopReport":
        for variant in self.variants:
            if variant.comparison and variant.delta_top1_pp is not None:
                delta = 100 * (variant.comparison.gained - variant.comparison.lost) / self.dataset.eval_images
                if abs(delta - variant.delta_top1_pp) > _CLOSE:
                    raise ValueError(f"{variant.name} lost {variant.delta_top1_pp} points, its images say {delta}")
        return self


class _IouGate(Part):
    min_relative_miou: Annotated[float, Field(ge=0, le=1)]


class _ClassIou(Part):
    """A class of the masks: its pixels there, and intersection over union of the reference's maps and of the engine's."""

    label: Text
    pixels: Annotated[int, Field(gt=0)]
    reference_iou: Percent
    iou: Percent


class _ChangedImage(Part):
    """An image whose pixels have other classes than the reference gives them: the share that does, and the shares right."""

    image: Text
    differing: Percent
    reference_accuracy: Percent
    accuracy: Percent


class _PixelComparison(Part):
    """Against the reference, pixel by pixel; `per_class` has every class of the masks, the other lists the largest changes."""

    gained_pixels: Count
    lost_pixels: Count
    smallest_drop_pp: Percent
    per_class: Annotated[list[_ClassIou], Field(min_length=1)]
    confusion_moved: list[Moved]
    images: list[_ChangedImage]


class _IouVariant(Variant):
    WORDS: ClassVar[Words] = SEGMENTATION

    miou: Percent | None
    pixel_accuracy: Percent | None
    delta_miou_pp: Difference | None
    comparison: _PixelComparison | None = None

    @model_validator(mode="after")
    def _classes_fit(self) -> "_IouVariant":
        if self.comparison is None or self.miou is None or self.delta_miou_pp is None:
            return self
        rows = self.comparison.per_class
        mean = sum(row.iou for row in rows) / len(rows)
        delta = mean - sum(row.reference_iou for row in rows) / len(rows)
        if abs(mean - self.miou) > _CLOSE:
            raise ValueError(f"{self.name} has an mIoU of {self.miou}, its classes say {mean}")
        if abs(delta - self.delta_miou_pp) > _CLOSE:
            raise ValueError(f"{self.name} lost {self.delta_miou_pp} points, its classes say {delta}")
        return self


class _IouReference(Part):
    name: Text
    miou: Percent
    pixel_accuracy: Percent


class _IouReport(Report):
    task: Literal["segmentation"]
    gate: _IouGate
    variants: list[_IouVariant]
    reference: _IouReference | None = None

    @model_validator(mode="after")
    def _pixels_fit(self) -> "_IouReport":
        for variant in self.variants:
            if variant.comparison and variant.pixel_accuracy is not None and self.reference:
                found = variant.comparison
                pixels = sum(row.pixels for row in found.per_class)
                delta = 100 * (found.gained_pixels - found.lost_pixels) / pixels
                if abs(delta - (variant.pixel_accuracy - self.reference.pixel_accuracy)) > _CLOSE:
                    raise ValueError(
                        f"{variant.name} has {variant.pixel_accuracy} % of pixels right, its pixels say {delta:+} points"
                    )
        return self


SCHEMAS: dict[str, type[Report]] = {CLASSIFICATION.task: _TopReport, SEGMENTATION.task: _IouReport}
VARIANTS: dict[str, type[Variant]] = {CLASSIFICATION.task: _TopVariant, SEGMENTATION.task: _IouVariant}


def schema_of(report: Any) -> type[Report]:
    """Of the task that a report names; ValueError where there is no such task."""
    task = report.get("task", CLASSIFICATION.task) if isinstance(report, dict) else CLASSIFICATION.task
    if not isinstance(task, str) or task not in SCHEMAS:
        raise ValueError(f"this is not a report: task is {task!r}, allowed: {', '.join(SCHEMAS)}")
    return SCHEMAS[task]
