"""What stays on a terminal, as lines."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from pipeline.console.final_lines import FinalLines


def lines_of(*texts: str) -> list[str]:
    final = FinalLines()
    return [line for text in texts for line in final.feed(text)] + final.close()


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (("one", "\n", "two\nthree"), ["one", "two", "three"]),
        (("\n", "  indented \n\n"), ["", "  indented ", ""]),
        (("10 %\r", "50 %\r", "100 %\n"), ["100 %"]),
        (("longer\rshort\n",), ["shortr"]),
        (("longer\rshort\x1b[K\n",), ["short"]),
        (("ends\r\n",), ["ends"]),
        (("\x1b[1;31mred\x1b[0m and \x1b]8;;http://x\x1b\\link\x1b]8;;\x07\n",), ["red and link"]),
        (("cut\x1b", "[3", "1m here\x07\n"), ["cut here"]),
        (("bar\n", "\x1b[1A\x1b[2Knext\n"), ["bar", "next"]),  # `bar` was given out before it could be known
        (("first\x1b[K\nsecond\n", "\x1b[2A\x1b[2Kother\n", "\x1b[2Klast\n"), ["other", "last"]),
        (("abc\b\bx\x1b[1K\n",), ["  c"]),
    ],
)
def test_lines(texts: tuple[str, ...], lines: list[str]) -> None:
    assert lines_of(*texts) == lines


def test_a_line_is_given_out_at_its_end() -> None:
    final = FinalLines()
    assert final.feed("epoch 1") == [] and final.feed("\n") == ["epoch 1"]
    assert final.feed("\x1b[31mepoch 2\x1b[0m\n") == ["epoch 2"], "colours hold nothing back"


class Texts(io.StringIO):
    """What was written, text by text."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        self.texts.append(text)
        return len(text)


@pytest.mark.parametrize("bars", [1, 3])
@pytest.mark.parametrize("transient", [True, False])
def test_bars_of_rich(bars: int, transient: bool) -> None:
    """Lines printed above bars stay, each once; the bars do not, unless they are left there at the end."""
    file = Texts()
    console = Console(file=file, force_terminal=True, width=60)
    console.print("before")
    with Progress(console=console, transient=transient, auto_refresh=False) as progress:
        tasks = [progress.add_task(f"bar {index}", total=5) for index in range(bars)]
        for step in range(5):
            for task in tasks:
                progress.update(task, completed=step + 1, refresh=True)
            console.print(f"epoch {step}")
    console.print("after")
    assert "\x1b[2K" in "".join(file.texts), "this test shows nothing"
    found = [line.rstrip() for line in lines_of(*file.texts)]
    left = [line for line in found if line.startswith("bar")]
    assert [line for line in found if line not in left] == ["before", *(f"epoch {step}" for step in range(5)), "after"]
    assert len(left) == (0 if transient else bars) and all("100%" in line for line in left)
