"""Train and val out of images that have no splits: by content and seed, and no picture in both."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.init.layout import Classes
from pipeline.init.photos import Photo

SEED = 0
SHARE = 0.2  # of each class, for val
MOST_VAL = 5000  # images of val; more cost time at each evaluation and say little more


@dataclass(frozen=True)
class Split:
    """`copies` images show what another one shows; `torn` pictures are in several classes."""

    train: Classes
    val: Classes
    copies: int
    torn: tuple[tuple[str, ...], ...]


def make_split(classes: Mapping[str, Sequence[Photo]]) -> Split:
    """Divide each class. Which images come to val depends on their pixels alone, not on names or places.

    Images of the same pixels, whatever their files are, go to one side together. A picture that is in several classes goes to
    train: its label cannot be right. A class of one picture has no val images.
    """
    classes_of: dict[bytes, set[str]] = defaultdict(set)
    for name, photos in classes.items():
        for photo in photos:
            classes_of[photo.pixels].add(name)
    total = sum(map(len, classes.values()))
    share = min(SHARE, MOST_VAL / total)
    chosen = {digest for name, photos in classes.items() for digest in _choose(photos, share, classes_of, name)}
    sides = [
        {
            name: tuple(photo.path for photo in photos if (photo.pixels in chosen) == wanted)
            for name, photos in classes.items()
        }
        for wanted in (False, True)
    ]
    torn = sorted({tuple(sorted(names)) for names in classes_of.values() if len(names) > 1})
    return Split(sides[0], sides[1], total - len(classes_of), tuple(torn))


def _choose(
    photos: Sequence[Photo], share: float, classes_of: Mapping[bytes, set[str]], name: str
) -> list[bytes]:  # fmt: skip
    """The pictures of a class that go to val, in an order that seed and pixels give; one at least, and never all."""
    pictures: dict[bytes, list[Path]] = defaultdict(list)
    for photo in photos:
        pictures[photo.pixels].append(photo.path)
    free = sorted((digest for digest in pictures if classes_of[digest] == {name}), key=_drawn)
    if len(pictures) < 2 or not free:
        return []
    wanted, images = max(1, round(share * len(photos))), 0
    chosen: list[bytes] = []
    for digest in free:
        if images + len(pictures[digest]) <= wanted:
            chosen.append(digest)
            images += len(pictures[digest])
    if not chosen:  # each picture has many copies
        chosen = [min(free, key=lambda digest: len(pictures[digest]))]
    return chosen if len(chosen) < len(pictures) else chosen[:-1]


def _drawn(digest: bytes) -> bytes:
    return hashlib.blake2b(digest, digest_size=16, salt=SEED.to_bytes(8, "little")).digest()
