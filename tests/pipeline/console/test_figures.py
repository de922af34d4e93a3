"""Numbers as people read them."""

import pytest

from pipeline.console.figures import counted, duration


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "image", "no images"), (1, "image", "1 image"), (1000, "image", "1,000 images"), (2, "class", "2 classes")],
)
def test_counted(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.4, "0 s"), (40, "40 s"), (59.4, "59 s"), (59.6, "1 min"), (60, "1 min"), (100, "2 min"), (720, "12 min"),
        (3569, "59 min"), (3571, "1 h"), (3600, "1 h"), (3700, "1 h 2 min"), (12_000, "3 h 20 min"), (86_369, "23 h 59 min"),
        (86_371, "1 day"), (90_000, "1 day 1 h"), (183_600, "2 days 3 h"), (2 * 86_400 - 1700, "2 days"),
        (2 * 86_400 - 1900, "1 day 23 h"), (30 * 86_400, "30 days"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
