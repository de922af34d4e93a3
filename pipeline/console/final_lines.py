"""Text for a terminal as the lines that stay on it: without escape codes, and without bars that are drawn again and again."""

import re

# An escape sequence with its number and letter, a title, the three controls that matter, text, or any other control.
_PIECE = re.compile(
    r"\x1b\[([0-9;?]*)[ -/]*([@-~])|\x1b\].*?(?:\x07|\x1b\\)|\x1b.|([\r\n\b])|([^\x00-\x08\x0a-\x1f\x7f-\x9f]+)|.",
    re.DOTALL,
)
_CUT = re.compile(
    r"\x1b(?:\[[0-9;?]*[ -/]*|\][^\x07\x1b]*\x1b?)?$"
)  # the rest of the sequence comes with the next text


class FinalLines:
    """A terminal so far as bars need one: it overwrites and erases, and moves up over lines that were not given out yet.

    A line is given out when the cursor has left it. Where the text has controls it is held back until the next text, which may
    erase it: a bar is written again several times a second, and removed at its end.
    """

    def __init__(self) -> None:
        self._rows, self._row, self._column = [""], 0, 0
        self._cut = ""

    def feed(self, text: str) -> list[str]:
        """The lines that are final now."""
        text = self._cut + text
        cut = _CUT.search(text)
        self._cut = cut[0] if cut else ""
        text = text.removesuffix(self._cut)
        highest, controlled = self._row, False
        for match in _PIECE.finditer(text):
            number, letter, control, plain = match.groups()
            if plain is not None:
                self._write(plain)
            elif control is not None:
                self._control(control)
            elif letter is not None:
                controlled |= letter != "m"  # a colour moves nothing
                self._escape(number, letter)
                highest = min(highest, self._row)
        return self._give(highest if controlled else self._row)

    def close(self) -> list[str]:
        """What is left: lines held back, and one without an end."""
        last = max((index for index, row in enumerate(self._rows) if row), default=-1)
        return self._give(max(last + 1, self._row))

    def _give(self, count: int) -> list[str]:
        given, self._rows = self._rows[:count], self._rows[count:] or [""]
        self._row = max(self._row - count, 0)
        return given

    def _write(self, plain: str) -> None:
        row = self._rows[self._row].ljust(self._column)
        end = self._column + len(plain)
        self._rows[self._row] = row[: self._column] + plain + row[end:]
        self._column = end

    def _control(self, control: str) -> None:
        self._column = max(self._column - 1, 0) if control == "\b" else 0
        if control == "\n":
            self._row += 1
            if self._row == len(self._rows):
                self._rows.append("")

    def _escape(self, number: str, letter: str) -> None:
        if letter == "A":  # up
            self._row = max(self._row - int(number or 1), 0)
        elif letter == "K":  # erase to the end of the line, to its beginning, or all of it
            row = self._rows[self._row]
            kept = {"1": " " * self._column + row[self._column :], "2": ""}
            self._rows[self._row] = kept.get(number, row[: self._column])
