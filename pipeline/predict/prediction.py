"""What is predicted of one image or frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Image

NOT_FINITE = "the engine gives NaN or Inf for it"


@dataclass(frozen=True)
class Guess:
    """A class and its softmax probability, 0–1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Share:
    """A class and its share, 0–1, of the pixels that the network saw."""

    label: str
    share: float


@dataclass(frozen=True)
class Prediction:
    """What is in one image or frame, or the `problem` for which that is not known.

    Of a network that classifies images, `top` holds the likeliest classes, best first. Of one that classifies pixels, `class_map`
    (H, W) holds the index of each pixel's class in the image as the network saw it, and `shares` the classes that are there,
    largest first. `frame` counts from 0 and `seconds` is the time in the video; both are None for an image. `image` is the RGB
    original (H, W, 3) where it was asked for, `target` the name of an annotated copy.
    """

    source: str
    top: tuple[Guess, ...] = ()
    frame: int | None = None
    seconds: float | None = None
    problem: str | None = None
    target: str = ""
    image: Image | None = None
    shares: tuple[Share, ...] = ()
    class_map: NDArray[np.uint8] | None = None

    @property
    def label(self) -> str | None:
        """The likeliest class, None where there is a problem."""
        return self.top[0].label if self.top else None

    @property
    def probability(self) -> float | None:
        """Probability of the likeliest class, 0–1, None where there is a problem."""
        return self.top[0].probability if self.top else None

    @property
    def name(self) -> str:
        """`photo.jpg`, or `video.avi frame 12`."""
        return self.source if self.frame is None else f"{self.source} frame {self.frame}"
