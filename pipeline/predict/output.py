"""What `predict` gives of each task: how logits become a prediction, and how one is written and shown. Two implementations."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.preprocess import Preprocess
from pipeline.predict.class_output import ClassOutput
from pipeline.predict.map_output import MapOutput
from pipeline.predict.prediction import Prediction
from pipeline.tasks.words import CLASSIFICATION, SEGMENTATION


class Output(Protocol):
    """The half of a task that `predict` is; `pipeline.tasks.task.Task` is that which evaluation is."""

    BESIDE: ClassVar[tuple[str, ...]]  # endings of the further files that an annotated image has beside it
    SAYS: ClassVar[str]  # what is printed of an image, in a few words
    ABOUT: ClassVar[str]  # how to read what is written, a paragraph of a bundle's README or nothing

    def read(self, blank: Prediction, logits: NDArray[Any]) -> Prediction:
        """`blank` filled in from the logits (classes, …) of its image, or with a problem where they are not finite."""

    def text(self, prediction: Prediction) -> str:
        """For a line of text."""

    def to_json(self, prediction: Prediction) -> dict[str, Any]:
        """For an object of JSON, besides where the image is from."""

    def columns(self) -> list[str]:
        """Names of a CSV table's columns, besides those."""

    def cells(self, prediction: Prediction) -> list[str]:
        """Of a row of that table, as many as there are columns."""

    def picture(self, prediction: Prediction) -> NDArray[np.uint8]:
        """BGR (H, W, 3): the original, which `prediction.image` holds, with what was predicted."""

    def beside(self, prediction: Prediction) -> Sequence[NDArray[np.uint8]]:
        """The pictures that go into the files of `BESIDE`."""


OUTPUTS: dict[str, type[ClassOutput] | type[MapOutput]] = {
    CLASSIFICATION.task: ClassOutput, SEGMENTATION.task: MapOutput
}  # fmt: skip


def output_of(task: str, classes: tuple[str, ...], top: int | None, spec: Preprocess) -> Output:
    """For an engine's task, classes and preprocessing; `top` is how many classes are written, None for the task's own default."""
    if task not in OUTPUTS:
        raise InputError(
            "the engine is for a task that is not known here", got=task, allowed=", ".join(OUTPUTS),
            next_step="use the t2t-edge that built it",
        )  # fmt: skip
    return OUTPUTS[task](classes, top or OUTPUTS[task].TOP, spec)
