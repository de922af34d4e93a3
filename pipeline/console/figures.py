"""Numbers and texts as people read them: the same in the terminal, in Markdown, on the page and in pictures."""

from collections.abc import Sequence

MISSING = "–"  # what was not measured


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign, or a dash."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; one that rounds to 0 has no sign."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")


def quantity(value: float | None) -> str:
    """A positive quantity to about three significant digits: 1.29, 12.9, 129, 1290."""
    if value is None:
        return MISSING
    return number(value, 2 if value < 9.995 else 1 if value < 99.95 else 0)


def megabytes(size: int | None) -> str:
    """Millions of bytes."""
    return number(None if size is None else size / 1e6, 1)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`, `2 days 3 h`: as exact as a person wants it."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    hours = round(seconds / 3600)
    return counted(hours // 24, "day") + (f" {hours % 24} h" if hours % 24 else "")


def one_line(text: str) -> str:
    """`text` with every run of white space, line ends included, as one space."""
    return " ".join(text.split())


def percent(fraction: float) -> str:
    """0.99 as `99 %`."""
    return f"{100 * fraction:g} %"


def first_names(names: Sequence[str], shown: int = 5) -> str:
    """`bag, boot and 3 more`: the first names of a list."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")


def without_images(missing: Sequence[str], classes: int) -> str:
    """That of so many `classes` the `missing` ones have no evaluation images, and what follows from it."""
    count, names = f"{len(missing):,}", first_names(missing)
    return f"{count} of {classes:,} classes without evaluation images, so how well they are recognised is not known: {names}"


def counted(count: int, noun: str) -> str:
    """`1 image`, `1,000 images`, `no images`; `noun` is in the singular, and one that takes an s or es."""
    number_of = f"{count:,}" if count else "no"
    return f"{number_of} {noun if count == 1 else noun + ('es' if noun.endswith('s') else 's')}"
