"""Classification: the likeliest classes of an image, and their probabilities."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Preprocess
from pipeline.predict.annotate import annotate
from pipeline.predict.prediction import NOT_FINITE, Guess, Prediction


@dataclass(frozen=True)
class ClassOutput:
    """`pipeline.predict.output.Output` says what each is for."""

    BESIDE: ClassVar[tuple[str, ...]] = ()
    TOP: ClassVar[int] = 1
    SAYS: ClassVar[str] = "class and probability"
    ABOUT: ClassVar[str] = ""

    classes: tuple[str, ...]
    top: int
    spec: Preprocess

    def read(self, blank: Prediction, logits: NDArray[Any]) -> Prediction:
        values = logits.astype(np.float64)
        with np.errstate(invalid="ignore"):  # NaN and Inf become a problem
            probabilities = np.exp(values - values.max())
            probabilities /= probabilities.sum()
        if not np.isfinite(probabilities).all():
            return replace(blank, problem=NOT_FINITE)
        best = np.argsort(-probabilities, kind="stable")[: self.top]
        return replace(blank, top=tuple(Guess(self.classes[index], float(probabilities[index])) for index in best))

    def text(self, prediction: Prediction) -> str:
        return ", ".join(f"{guess.label}  {100 * guess.probability:.1f} %" for guess in prediction.top)

    def to_json(self, prediction: Prediction) -> dict[str, Any]:
        """`label`, `probability`, and `top`, best first."""
        return {
            "label": prediction.label, "probability": prediction.probability,
            "top": [{"label": guess.label, "probability": guess.probability} for guess in prediction.top],
        }  # fmt: skip

    def columns(self) -> list[str]:
        suffixes = ["", *(f"_{place}" for place in range(2, min(self.top, len(self.classes)) + 1))]
        return [f"{name}{suffix}" for suffix in suffixes for name in ("label", "probability")]

    def cells(self, prediction: Prediction) -> list[str]:
        return [value for guess in prediction.top for value in (guess.label, f"{guess.probability:.6f}")]

    def picture(self, prediction: Prediction) -> NDArray[np.uint8]:
        assert prediction.image is not None
        return annotate(prediction.image, prediction.top)

    def beside(self, prediction: Prediction) -> tuple[NDArray[np.uint8], ...]:
        return ()
