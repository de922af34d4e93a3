"""What may have been meant by a name that does not exist: a key or value of a recipe, a command, an option, a run."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

_ALIKE = 0.6  # difflib's own default


def nearest(name: str, names: Iterable[str], most: int = 1, cutoff: float = _ALIKE) -> list[str]:
    """At most so many of `names` that look like `name`, the likest first; upper and lower case are the same."""
    likeness = {other: SequenceMatcher(None, other.lower(), name.lower()).ratio() for other in names}
    alike = [other for other in likeness if likeness[other] >= cutoff]
    return sorted(alike, key=lambda other: -likeness[other])[:most]


def did_you_mean(near: Sequence[str]) -> str:
    """What stands behind the name that was given; "" where nothing is near."""
    return f"; did you mean {' or '.join(near)}?" if near else ""
