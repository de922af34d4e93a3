"""The rows of a search: written to `path.jsonl` one by one, so that an interrupted search resumes, and printed."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from calib.precision.search import Trial
from pipeline.console.figures import MISSING, number, quantity
from pipeline.tasks.words import Words

FILE = "path.jsonl"


@dataclass(frozen=True)
class Row:
    """One mix that was tried.

    `nodes` are its layers in INT8. `products` is the number of INT8 products in the graph, `engine_int8` that in the engine,
    None where the backend does not report it. Accuracy is on the `images` of the search split that were used: fewer than all
    where these were enough to refuse the mix. `latency_ms` is the median at batch 1; `ratio` ± `noise` is that latency over
    FP32's, measured in turns, and in FP32's own row that of a second copy of FP32. `refused` says why the mix is not
    accepted.
    """

    label: str
    nodes: tuple[str, ...]
    products: int
    engine_int8: int | None
    images: int
    score: float | None
    drop_pp: float | None
    highest_drop_pp: float | None
    agreement: float | None
    latency_ms: float | None
    ratio: float | None
    noise: float
    refused: str

    def trial(self) -> Trial:
        """The row for the search algorithm. FP32's ratio is 1 by definition, whatever its own row measured."""
        differing = 100.0 if self.agreement is None else 100 - self.agreement
        if not self.nodes:
            return Trial(frozenset(), True, differing, self.latency_ms, 1.0, 0.0)
        return Trial(frozenset(self.nodes), not self.refused, differing, self.latency_ms, self.ratio, self.noise)

    def to_dict(self, words: Words) -> dict[str, Any]:
        """Plain JSON types; the score by the key of the task's `words`."""
        values = asdict(self) | {"nodes": list(self.nodes)}
        return {words.score if key == "score" else key: value for key, value in values.items()}


class PathFile:
    """`path.jsonl`: a line with the hash of all settings, then a row for each trial; with other settings it starts empty."""

    def __init__(self, folder: Path, settings: str, words: Words):
        self._path, self._words = folder / FILE, words
        self._rows = _read(self._path, settings, words)
        self.kept = len(self._rows)
        partial = self._path.with_suffix(".partial")  # written again without an incomplete last line
        with partial.open("w", encoding="utf-8") as file:
            for values in ({"settings": settings}, *(row.to_dict(words) for row in self._rows)):
                file.write(json.dumps(values) + "\n")
        os.replace(partial, self._path)

    def find(self, names: frozenset[str]) -> Row | None:
        """The row of a mix that was tried before, None if it was not."""
        return next((row for row in self._rows if frozenset(row.nodes) == names), None)

    def add(self, row: Row) -> None:
        """Add a row; it is on the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row.to_dict(self._words)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows.append(row)


def _read(path: Path, settings: str, words: Words) -> list[Row]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a line without an end is incomplete
    if not lines or json.loads(lines[0]) != {"settings": settings}:
        return []
    return [row_of(json.loads(line), words) for line in lines[1:]]


def row_of(values: Mapping[str, Any], words: Words) -> Row:
    """Read what `to_dict` wrote."""
    named = {**values, "score": values[words.score], "nodes": tuple(values["nodes"])}
    return Row(**{field.name: named[field.name] for field in fields(Row)})


def heading(words: Words) -> str:
    """The column titles of `line`."""
    return f"{'INT8':>5} {words.score_name:>6} {'drop':>6} {'same %':>6} {'ms':>6} {'× FP32':>13}  what is tried"


def line(row: Row) -> str:
    """A row as the terminal shows it."""
    ratio = MISSING if row.ratio is None else f"{row.ratio:.3f} ± {row.noise:.3f}"
    cells = (
        f"{len(row.nodes):>5} {number(row.score):>6} {number(row.drop_pp):>6} {number(row.agreement, 1):>6} "
        f"{quantity(row.latency_ms):>6} {ratio:>13}"
    )
    return f"{cells}  {row.label}{f': refused, {row.refused}' if row.refused else ''}"
