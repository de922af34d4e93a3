"""The audit of a calibration set: what is in it, and what makes it unfit. docs/calibration.md explains every check."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.calibration import CHUNK, CalibrationSet
from calib.calibration_source import silent
from calib.colour_order import ColourOrder, Logits, ask_network, compare_statistics
from calib.errors import InputError
from calib.findings import (
    SHOWN,
    Problem,
    constant_colour,
    drawn_from_evaluation,
    leaked,
    missing_classes,
    nearly_leaked,
    off_spec,
    pairs_text,
    suspicious_colours,
    three_values,
    too_few,
    wrong_colours,
)
from calib.image_array import UNKNOWN
from calib.images import ImageSplit, Track, balanced_subset
from calib.leak import Leak, find_leak
from calib.pixels import PixelMeter, Pixels, grey_images, signatures
from calib.preprocess import Preprocess, load_batch

COLOUR_IMAGES = 256  # how many images the colour order is measured on
SEED = 0  # of the training images' sample


@dataclass(frozen=True)
class Audit:
    """What was found. `per_class` is None without labels; `network` is None where none was asked."""

    images: int
    fingerprint: str
    classes: tuple[str, ...]
    per_class: list[int] | None
    duplicates: list[tuple[str, str]]
    mean: list[float]
    std: list[float]
    spec: Preprocess
    grey: float
    leak: Leak
    statistics: ColourOrder
    network: ColourOrder | None
    seconds: float
    problems: list[Problem]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """What `audit.json` holds: plain types, the same for the same images (no times)."""
        colour = {"statistics": vars(self.statistics), "network": vars(self.network) if self.network else None}
        histogram = dict(zip(self.classes, self.per_class, strict=True)) if self.per_class is not None else None
        return {
            "schema": 1, "accepted": not self.problems, "images": self.images, "fingerprint": self.fingerprint,
            "per_class": histogram, "duplicates": {"count": len(self.duplicates), "examples": self.duplicates[:SHOWN]},
            "mean": self.mean, "std": self.std, "spec_mean": list(self.spec.mean), "spec_std": list(self.spec.std),
            "grey_share": self.grey, "colour_order": colour,
            "evaluation": {
                "files_compared": self.leak.files, "pixels_compared": self.leak.pixels,
                "same": len(self.leak.same), "same_examples": self.leak.same[:SHOWN],
                "near": len(self.leak.near), "near_examples": self.leak.near[:SHOWN],
            },
            "refused": [vars(problem) for problem in self.problems], "warnings": self.warnings,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The audit as it is printed."""
        spec = f"{three_values(self.spec.mean)}, {three_values(self.spec.std)}"
        rows = [
            ("images", f"{self.images}, fingerprint {self.fingerprint[:12]}"),
            ("classes", self._histogram()),
            ("mean, std", f"{three_values(self.mean)}, {three_values(self.std)}; spec {spec}"),
            ("duplicates", f"{len(self.duplicates)}: {pairs_text(self.duplicates)}" if self.duplicates else "none"),
            ("evaluation", self._overlap()),
            ("colour", f"{100 * self.grey:.0f} % grey; {self._colour()}"),
        ]  # fmt: skip
        marked = [("warning", text) for text in self.warnings] + [("refused", p.what) for p in self.problems]
        return [f"{name:<11}{text}" for name, text in rows + marked]

    def refuse(self) -> None:
        """Raise InputError with everything that makes the set unfit, if anything does."""
        if not self.problems:
            return
        first = self.problems[0]
        if len(self.problems) == 1:
            raise InputError(first.what, got=first.got, allowed=first.allowed, next_step=first.next_step)
        raise InputError(
            f"the calibration set is unfit for {len(self.problems)} reasons",
            got="".join(f"\n    {problem.what}: {problem.got}" for problem in self.problems),
            allowed="; ".join(problem.allowed for problem in self.problems),
            next_step="; ".join(problem.next_step for problem in self.problems),
        )

    def _histogram(self) -> str:
        if self.per_class is None:
            return "not known: the images have no labels of their own"
        return f"{min(self.per_class)} to {max(self.per_class)} images of each of {len(self.per_class)}"

    def _overlap(self) -> str:
        if not self.leak.pixels:
            return "not compared: the set is drawn from them"
        files = f"files of {self.leak.files:,} and " if self.leak.files else ""
        found = f"{len(self.leak.same)} in the set" if self.leak.same else "none in the set"
        return f"{found}; {files}pixels of {self.leak.pixels:,} evaluation images compared ({self.seconds:.0f} s)"

    def _colour(self) -> str:
        shown = self.network or self.statistics
        by = "by the network" if self.network else "by statistics"
        return f"order {shown.verdict} {by}: {shown.text}"


@dataclass(frozen=True)
class Against:
    """What a set is held against: the spec, the model's classes, both splits, and the network where there is one.

    `files` are the set's image files in order, which our own code read as red, green, blue; () where it has none.
    `from_evaluation`: the set is drawn from the evaluation images, because there are no others.
    """

    spec: Preprocess
    train: ImageSplit
    evaluation: ImageSplit
    files: Sequence[Path] = ()
    logits: Logits | None = None
    from_evaluation: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def without_images(self) -> frozenset[str]:
        """The classes that no calibration image can be of, because the images to draw from have none."""
        return frozenset((self.evaluation if self.from_evaluation else self.train).without_images())


def audit_calibration_set(calibration: CalibrationSet, against: Against, track: Track = silent) -> Audit:
    """Look at every image of the set, and at the evaluation images; reads the set from its file, in batches.

    Raises nothing for an unfit set: `Audit.refuse` does, so that the audit can be printed and saved before.
    """
    meter = PixelMeter(against.spec.sha256())
    for batch in calibration.batches(CHUNK):
        meter.add(batch)
    pixels = meter.pixels()
    names = calibration.names or tuple(f"image {index}" for index in range(len(calibration)))
    started = time.monotonic()
    leak = Leak([], [], 0, 0)
    if not against.from_evaluation:
        leak = find_leak(names, against.files, pixels, against.evaluation, against.spec, track)
    seconds = time.monotonic() - started
    labelled = bool((calibration.labels != UNKNOWN).all())
    per_class = np.bincount(calibration.labels, minlength=len(against.classes)).tolist() if labelled else None
    duplicates = _duplicates(names, pixels.hashes)
    statistics, network = _colour_order(calibration, pixels, against)
    return Audit(
        len(calibration), meter.fingerprint(), against.classes, per_class, duplicates,
        _rounded(pixels.mean()), _rounded(pixels.std()), against.spec, round(float(pixels.grey.mean()), 4), leak,
        statistics, network, seconds,
        [
            *too_few(len(calibration), len(duplicates)), *missing_classes(per_class, against.classes, against.without_images()),
            *constant_colour(names, pixels), *leaked(leak, len(calibration)), *wrong_colours(network, bool(against.files)),
        ],
        [
            *drawn_from_evaluation(against.from_evaluation), *off_spec(pixels, against.spec), *nearly_leaked(leak),
            *suspicious_colours(statistics, network),
        ],
    )  # fmt: skip


def _colour_order(
    calibration: CalibrationSet, pixels: Pixels, against: Against
) -> tuple[ColourOrder, ColourOrder | None]:
    """By statistics and by the network, both on images in colour only: a grey one looks the same in either order."""
    in_colour = np.flatnonzero(~pixels.grey)
    if not len(in_colour):
        undecided = ColourOrder("undecided", "the images are grey", {"images": 0})
        return undecided, undecided if against.logits else None
    evenly = np.linspace(0, len(in_colour) - 1, min(len(in_colour), COLOUR_IMAGES)).round().astype(int)
    chosen = in_colour[evenly]
    statistics = compare_statistics(_channel_means(pixels.signatures[chosen]), _training_means(against))
    if against.logits is None:
        return statistics, None
    return statistics, ask_network(calibration.take(chosen.tolist()), calibration.labels[chosen], against.logits)


def _training_means(against: Against) -> NDArray[np.float64]:
    """Per-image channel means of a seeded sample of the training images, those in colour; (n, 3)."""
    if not len(against.train):
        return np.zeros((0, 3))
    chosen = balanced_subset(against.train, min(COLOUR_IMAGES, len(against.train)), SEED)
    images = load_batch([against.train.paths[index] for index in chosen], against.spec)
    coloured = images[~grey_images(images)]
    return _channel_means(signatures(coloured)) if len(coloured) else np.zeros((0, 3))


def _channel_means(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """From signatures (N, cells · 3)."""
    return np.asarray(values.reshape(len(values), -1, 3).mean(axis=1, dtype=np.float64))


def _duplicates(names: Sequence[str], hashes: list[bytes]) -> list[tuple[str, str]]:
    """(image, the earlier one with the same pixels)."""
    first: dict[bytes, str] = {}
    return [(name, seen) for name, digest in zip(names, hashes, strict=True) if (seen := first.setdefault(digest, name)) != name]  # fmt: skip  # noqa: E501


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]
