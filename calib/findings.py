"""What an audit refuses a calibration set for, and what it warns of, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calib.colour_order import ColourOrder
from calib.leak import Leak
from calib.pixels import Pixels
from calib.preprocess import Preprocess

MIN_IMAGES = 16
MEAN_OFF, STD_RATIO = 0.5, 2.0  # beyond which mean (in the spec's std) and std are warned of
SHOWN = 5  # examples in a message


@dataclass(frozen=True)
class Problem:
    """One reason why a set is unfit, as an InputError will say it."""

    what: str
    got: str
    allowed: str
    next_step: str


def too_few(images: int, repeated: int) -> list[Problem]:
    if images - repeated >= MIN_IMAGES:
        return []
    return [
        Problem(
            "the calibration set has too few images",
            f"{images} images" + (f", {images - repeated} of them different" if repeated else ""),
            f"at least {MIN_IMAGES} different ones",
            "raise calibrate.images in the recipe" + (" and replace the repeated images" if repeated else ""),
        )
    ]


def missing_classes(
    per_class: list[int] | None, classes: tuple[str, ...], nowhere: frozenset[str] = frozenset()
) -> list[Problem]:  # fmt: skip
    """A set that could hold an image of every class and does not; 512 images of ImageNet's 1,000 classes are as usual. Of classes
    that are `nowhere`, there are no images to draw."""
    missing = [name for name, count in zip(classes, per_class, strict=True) if not count] if per_class else []
    missing = [name for name in missing if name not in nowhere]
    if not missing or sum(per_class or []) < len(classes) - len(nowhere):
        return []
    return [
        Problem(
            f"{len(missing)} of the model's {len(classes)} classes have no calibration image", examples_text(missing),
            "images of every class", f"raise calibrate.images in the recipe to at least {len(classes)}",
        )
    ]  # fmt: skip


def drawn_from_evaluation(drawn: bool) -> list[str]:
    """A warning, not a problem: who has evaluation images alone wants to see the chain run, and must know what it means."""
    if not drawn:
        return []
    return [
        "there are no training images, so the set is drawn from the evaluation images: ranges fit these, and the accuracy of "
        "quantized engines may come out a little too good; calibrate.source takes other images"
    ]


def constant_colour(names: Sequence[str], pixels: Pixels) -> list[Problem]:
    constant = [name for name, flag in zip(names, pixels.constant, strict=True) if flag]
    if not constant:
        return []
    return [
        Problem(
            f"{len(constant)} of {len(names)} calibration images are one colour throughout", examples_text(constant),
            "images with something in them", "look at these images, and replace or delete them",
        )
    ]  # fmt: skip


def leaked(leak: Leak, images: int) -> list[Problem]:
    if not leak.same:
        return []
    return [
        Problem(
            f"{len(leak.same)} of {images} calibration images are evaluation images: the measured accuracy would be too good",
            pairs_text(leak.same), "no image in both",
            "draw the calibration set from other images: leave calibrate.source out, or remove these from one side",
        )
    ]  # fmt: skip


def wrong_colours(network: ColourOrder | None, decoded: bool) -> list[Problem]:
    if network is None or network.verdict != "wrong":
        return []
    if decoded:  # our own reader gave red, green, blue: it is the network that expects another order
        allowed = "a network trained on red, green, blue"
        next_step = "swap the input channels of the network's first layer, or train it with this pipeline"
    else:
        allowed, next_step = "red, green, blue", "save images[..., ::-1]; cv2.imread gives blue, green, red"
    return [Problem("the colour order is wrong: blue where the network expects red", network.text, allowed, next_step)]


def off_spec(pixels: Pixels, spec: Preprocess) -> list[str]:
    mean, std = np.asarray(spec.mean), np.asarray(spec.std)
    ratio = np.maximum(pixels.std(), 1e-9) / std
    off = (np.abs(pixels.mean() - mean) > MEAN_OFF * std) | (ratio > STD_RATIO) | (ratio < 1 / STD_RATIO)
    if not off.any():
        return []
    channels = ", ".join(name for name, flag in zip(("red", "green", "blue"), off, strict=True) if flag)
    return [
        f"mean or std of {channels} is far from the spec's: other images than those of training, or of preprocess.mean and std"
    ]


def nearly_leaked(leak: Leak) -> list[str]:
    if not leak.near:
        return []
    return [f"{len(leak.near)} images look nearly like evaluation images (saved again?): {pairs_text(leak.near)}"]


def suspicious_colours(statistics: ColourOrder, network: ColourOrder | None) -> list[str]:
    if statistics.verdict != "wrong" or (network is not None and network.verdict != "undecided"):
        return []
    return [f"red and blue may be swapped: {statistics.text}"]


def pairs_text(pairs: list[tuple[str, str]]) -> str:
    shown = "; ".join(f"{ours} = {theirs}" for ours, theirs in pairs[:SHOWN])
    return f"{shown}{'; …' if len(pairs) > SHOWN else ''}"


def examples_text(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def three_values(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
