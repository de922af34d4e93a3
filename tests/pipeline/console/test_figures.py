"""Numbers as people read them."""

import pytest

from pipeline.console.figures import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "image", "no images"), (1, "image", "1 image"), (1000, "image", "1,000 images"), (2, "class", "2 classes")],
)
def test_counted(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
