"""What loss of accuracy a mix of precisions may have, judged on images that training has seen (docs/search.md)."""

from dataclasses import dataclass
from typing import Protocol


class Drop(Protocol):
    """How much worse than FP32 a mix is on the same images. Scores, agreement in percent, drops in percentage points.

    What the score is, and how its uncertainty is found, is the task's; `broken` are the images with NaN or Inf.
    """

    @property
    def images(self) -> int: ...
    @property
    def broken(self) -> int: ...
    @property
    def fp32_score(self) -> float: ...
    @property
    def score(self) -> float: ...
    @property
    def drop_pp(self) -> float: ...
    @property
    def highest_drop_pp(self) -> float:
        """The upper end of a one-sided 95 % interval of the drop on images like these."""

    @property
    def lowest_drop_pp(self) -> float:
        """The lower end of the same interval from the other side."""

    @property
    def agreement(self) -> float:
        """Of the answers, those that are FP32's; one with NaN or Inf is not."""


@dataclass(frozen=True)
class Limits:
    """The gate's least share of FP32's score, and the most points of it that may be lost."""

    min_relative: float
    max_drop_pp: float


def allowed_pp(fp32_score: float, limits: Limits) -> float:
    """The points that the gate lets go of FP32's score, in percent."""
    return (1 - limits.min_relative) * fp32_score


def refusal(found: Drop, limits: Limits) -> str:
    """Why a mix is refused; "" where it holds both limits.

    The drop on these images must be within `max_drop_pp`, and it must be sure (95 %) that the gate's allowance holds.
    """
    if found.broken:
        return f"NaN or Inf on {found.broken} of {found.images} images"
    if found.drop_pp > limits.max_drop_pp:
        return f"drop {found.drop_pp:.2f} points, at most {limits.max_drop_pp:g}"
    highest, allowed = found.highest_drop_pp, allowed_pp(found.fp32_score, limits)
    if highest > allowed:
        return f"drop up to {highest:.2f} points (95 %), the gate allows {allowed:.2f}"
    return ""


def hopeless(found: Drop, limits: Limits) -> str:
    """Why a mix is out already on a few of the images, surely (95 %); "" where more must be looked at."""
    if found.broken:
        return f"NaN or Inf on {found.broken} of {found.images} images"
    lowest, most = found.lowest_drop_pp, max(limits.max_drop_pp, allowed_pp(found.fp32_score, limits))
    if lowest > most:
        return f"drop at least {lowest:.1f} points (95 %), at most {most:.2f}"
    return ""
