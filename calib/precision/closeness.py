"""Whether two programs that compute one network in floating point gave the same logits, but for rounding.

Rounding grows with the logits, so nothing here is absolute: a network with logits of 1e14 may differ by 1e9.
"""

from dataclasses import dataclass

import numpy as np

from calib.precision.smoothing import Floats, class_rows, logits_distance

# FP32 programs reach 100 to 130 dB; one wrong operation, or FP16 somewhere (60 dB, an error of 1e-3), does not.
MIN_SNR_DB = 70.0
MAX_RELATIVE = 2e-4  # largest difference to the largest logit: 2e-3 where that is 10
# Of an image's largest logit: two best logits nearer than that are a tie, which rounding may decide either way.
TIE = 1e-5
NOTHING = 1e-6  # logits that differ by less have the same probabilities in FP32, however small they are
MIN_AGREEMENT = 99.9  # percent
MOST_AT_ONCE = 2**25  # logits; a class for each pixel of some hundred images are gigabytes


@dataclass(frozen=True)
class Closeness:
    """How near logits are to a reference: SNR in dB, the largest difference as it is and over the largest logit, agreement.

    `agreement` is the percentage of images with the same top-1, ties included, `ties` how many images these are.
    """

    snr_db: float
    relative: float
    largest: float
    agreement: float
    ties: int
    images: int

    @property
    def near(self) -> bool:
        """Whether only rounding is between the numbers."""
        return self.largest <= NOTHING or (self.snr_db >= MIN_SNR_DB and self.relative <= MAX_RELATIVE)

    @property
    def same(self) -> bool:
        """Whether only rounding is between them, and the images have the same top-1."""
        return self.near and self.agreement >= MIN_AGREEMENT

    def __str__(self) -> str:
        ties = f" (ties: {self.ties})" if self.ties else ""
        return (
            f"SNR {self.snr_db:.1f} dB, logits within {self.relative:.1e} of the largest, "
            f"same top-1 on {self.agreement:.2f} %{ties}"
        )

    def to_dict(self) -> dict[str, float | int | None]:
        """For a manifest; None stands for an SNR of equal logits, which JSON has no number for."""
        return {
            "snr_db": self.snr_db if np.isfinite(self.snr_db) else None, "relative_error": self.relative,
            "logit_difference_max": self.largest, "agreement": self.agreement, "ties": self.ties, "images": self.images,
        }  # fmt: skip


LIMITS = f"SNR from {MIN_SNR_DB:g} dB, {MAX_RELATIVE:g} of the largest logit, same top-1 on {MIN_AGREEMENT} %"


def compare_logits(reference: Floats, logits: Floats) -> Closeness:
    """`logits` (images, classes) against `reference`. A row that is not finite in both is no agreement, and nothing near.

    Of logits (images, classes, H, W) every pixel counts as an image. ValueError where the shapes differ.
    """
    snr = logits_distance(reference, logits).snr_db
    first, second = (class_rows(values).astype(np.float64) for values in (reference, logits))
    finite = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    with np.errstate(invalid="ignore"):  # inf − inf
        difference, largest = np.abs(first - second), np.abs(first).max(axis=1)
        rows, best = np.arange(len(first)), first.argmax(axis=1)
        found = second.argmax(axis=1)
        gap = first[rows, best] - first[rows, found]
    same = finite & (best == found)
    ties = finite & ~same & (gap <= np.maximum(TIE * largest, NOTHING))
    whole = bool(finite.all())
    scale = float(largest.max()) if whole else np.inf
    most = float(difference.max()) if whole else np.inf
    relative = most / scale if scale > 0 and whole else (0.0 if most == 0 else np.inf)
    return Closeness(snr, relative, most, 100 * float((same | ties).mean()), int(ties.sum()), len(first))


class ClosenessMeter:
    """`compare_logits` for logits that come in batches: all at once where they fit memory, else the worst of several parts."""

    def __init__(self, most: int = MOST_AT_ONCE):
        self._most = most
        self._waiting: list[tuple[Floats, Floats]] = []
        self._parts: list[Closeness] = []
        self._difference, self._count = 0.0, 0

    def add(self, reference: Floats, logits: Floats) -> None:
        """Take in a batch."""
        self._waiting.append((reference, logits))
        if sum(ours.size for ours, _ in self._waiting) > self._most:
            self._flush()

    def result(self) -> Closeness:
        """Of all batches, at least one: the worst part's distances, the agreement of all images together."""
        self._flush()
        images = sum(part.images for part in self._parts)
        return Closeness(
            snr_db=min(part.snr_db for part in self._parts), relative=max(part.relative for part in self._parts),
            largest=max(part.largest for part in self._parts),
            agreement=sum(part.agreement * part.images for part in self._parts) / images,
            ties=sum(part.ties for part in self._parts), images=images,
        )  # fmt: skip

    @property
    def mean_difference(self) -> float:
        """The mean absolute difference of all logits, once `result` was asked for."""
        return self._difference / self._count

    def _flush(self) -> None:
        if self._waiting:
            reference, logits = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
            self._waiting = []
            self._parts.append(compare_logits(reference, logits))
            self._difference += float(np.abs(reference - logits).mean()) * reference.size
            self._count += reference.size
