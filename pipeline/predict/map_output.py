"""Segmentation: the class of each pixel, on the original: as a colour overlay, and as indices in a PNG."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Preprocess, restore_mask
from pipeline.predict.overlay import overlay
from pipeline.predict.prediction import NOT_FINITE, Prediction, Share
from pipeline.tasks.pixels import NO_CLASS, Map, class_map


@dataclass(frozen=True)
class MapOutput:
    """`pipeline.predict.output.Output` says what each is for."""

    BESIDE: ClassVar[tuple[str, ...]] = (".classes.png",)
    TOP: ClassVar[int] = 5
    SAYS: ClassVar[str] = "classes and their shares of the pixels"
    ABOUT: ClassVar[str] = (
        "`predict --save FOLDER` writes the photograph with the classes' colours over it and, as `NAME.classes.png`, the\n"
        "index of each pixel's class (line 1 of `labels.txt` is 0), 255 where the network did not look: it sees the centre."
    )

    classes: tuple[str, ...]
    top: int
    spec: Preprocess

    def read(self, blank: Prediction, logits: NDArray[Any]) -> Prediction:
        (found,) = class_map(logits[np.newaxis])
        if (found == NO_CLASS).any():
            return replace(blank, problem=NOT_FINITE)
        shares = tuple(Share(self.classes[index], count / found.size) for index, count in _largest_first(found))
        return replace(blank, shares=shares, class_map=found)

    def text(self, prediction: Prediction) -> str:
        shown = [f"{share.label}  {100 * share.share:.1f} %" for share in prediction.shares[: self.top]]
        return ", ".join(shown + ["…"] * (len(prediction.shares) > self.top))

    def to_json(self, prediction: Prediction) -> dict[str, Any]:
        """`classes`, largest first."""
        return {
            "classes": [{"label": share.label, "share": share.share} for share in prediction.shares[: self.top]]
        }  # fmt: skip

    def columns(self) -> list[str]:
        suffixes = ["", *(f"_{place}" for place in range(2, self._most + 1))]
        return [f"{name}{suffix}" for suffix in suffixes for name in ("label", "share")]

    def cells(self, prediction: Prediction) -> list[str]:
        shown = prediction.shares[: self._most]
        cells = [value for share in shown for value in (share.label, f"{share.share:.6f}")]
        return cells + ["", ""] * (self._most - len(shown))

    def picture(self, prediction: Prediction) -> NDArray[np.uint8]:
        assert prediction.image is not None and prediction.class_map is not None
        legend = [(index, self.classes[index]) for index, _ in _largest_first(prediction.class_map)]
        return overlay(prediction.image, self.on_original(prediction), legend)

    def beside(self, prediction: Prediction) -> tuple[NDArray[np.uint8], ...]:
        return (self.on_original(prediction),)

    def on_original(self, prediction: Prediction) -> Map:
        """The class of each pixel of the original (H, W), `NO_CLASS` where the network did not see it."""
        assert prediction.image is not None and prediction.class_map is not None
        height, width = prediction.image.shape[:2]
        return restore_mask(prediction.class_map, height, width, self.spec, NO_CLASS)

    @property
    def _most(self) -> int:
        return min(self.top, len(self.classes))


def _largest_first(found: Map) -> list[tuple[int, int]]:
    """Index and number of pixels of each class that is there."""
    counts = np.bincount(found.ravel())
    return [(int(index), int(counts[index])) for index in np.argsort(-counts, kind="stable") if counts[index]]
