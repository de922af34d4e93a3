"""The interface of a task, and its two implementations by name. The half of a task that trains is in `pipeline.training`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calib.images import ImageSplit
from calib.precision.search_limits import Drop, Limits
from calib.preprocess import Preprocess
from pipeline.tasks.classification import Classification
from pipeline.tasks.segmentation import Segmentation
from pipeline.tasks.words import Words

Answers = NDArray[Any]
Labels = NDArray[Any]


class Task(Protocol):
    """N images; an answer is what of an engine's logits (n, classes, …) is kept for each image."""

    @property
    def words(self) -> Words: ...

    def read_split(
        self, root: Path, split: str, classes: tuple[str, ...] | None = None, *, may_lack: bool = False
    ) -> ImageSplit:
        """List the images of `root/split` and what belongs to them; see `calib.images.read_split`."""

    def labels(self, split: ImageSplit, chosen: slice, spec: Preprocess) -> Labels:
        """What is right for the chosen images, (n,) or (n, H, W)."""

    def absent(self, split: ImageSplit, labels: Labels) -> tuple[str, ...]:
        """The classes that none of the labels, of all images of the split, is of."""

    def output_shape(self, classes: int, height_width: tuple[int, int]) -> tuple[int, ...]:
        """Of one image's logits."""

    def answers(self, logits: NDArray[np.float32]) -> Answers:
        """What is kept of an engine's logits."""

    def finite_fraction(self, answers: Answers) -> float:
        """Share of images, 0–1, without NaN or infinity."""

    def scores(self, answers: Answers, labels: Labels) -> dict[str, float]:
        """Percent, by the keys `words.score` and `words.second`."""

    def agreement(self, ours: Answers, others: Answers) -> float:
        """Percent of `words.things` with the same answer; one that is not finite is none."""

    def other_images(self, reference: Answers, found: Answers) -> str:
        """What shows that `found`, of the graph that the reference was exported to, is of other images; "" where nothing does."""

    def interval(self, ours: Answers, reference: Answers, labels: Labels) -> tuple[float, float]:
        """95 % bootstrap interval of the score's difference on the same images, in percentage points."""

    def compare(
        self, ours: Answers, reference: Answers, labels: Labels, classes: tuple[str, ...], images: tuple[str, ...]
    ) -> dict[str, Any]:
        """`comparison` of a variant of report.json: what an engine changes, class by class and image by image."""

    def enough_images(
        self, variants: Sequence[dict[str, Any]], images: int, reference_score: float, share: float
    ) -> dict[str, Any]:
        """`enough_images` of report.json: whether these images would show a drop as large as the gate allows."""

    def drop(self, ours: Answers, reference: Answers, labels: Labels) -> Drop:
        """What the search for `auto` judges a mix of precisions by; RuntimeError where the reference is not finite."""

    def images_needed(self, reference_score: float, limits: Limits) -> int | None:
        """How many images that search needs at least; None where no number of them is enough. `reference_score` in percent."""

    def labels_hash(self, labels: Labels) -> str:
        """Changes where the labels do but neither the images nor their order; "" where that cannot be."""


TASKS: dict[str, Task] = {task.words.task: task for task in (Classification(), Segmentation())}


def task_named(name: str) -> Task:
    """The task that `data.task` names."""
    return TASKS[name]
