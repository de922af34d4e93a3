"""The rows of a search: kept in `path.jsonl` as they are finished, so that an interrupted search goes on, and printed."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from calib.precision.search import Trial
from pipeline.console.figures import MISSING, number, quantity

FILE = "path.jsonl"


@dataclass(frozen=True)
class Row:
    """One mix that was tried.

    `nodes` are its units in INT8; `products` those that the graph has in INT8, `engine_int8` those that the engine computes
    so, None where the backend does not tell. Accuracy is on the search split, or on `images` of it where a few were enough
    to refuse. `latency_ms` is the median at batch 1, `ratio` that over FP32's beside it, ± `noise`; in FP32's row it is that
    of a second copy of FP32. `refused` says why the mix is not accepted.
    """

    label: str
    nodes: tuple[str, ...]
    products: int
    engine_int8: int | None
    images: int
    top1: float | None
    drop_pp: float | None
    highest_drop_pp: float | None
    agreement: float | None
    latency_ms: float | None
    ratio: float | None
    noise: float
    refused: str

    def trial(self) -> Trial:
        """As the algorithm sees it: FP32 is what ratios are measured against, whatever noise its own row shows."""
        differing = 100.0 if self.agreement is None else 100 - self.agreement
        if not self.nodes:
            return Trial(frozenset(), True, differing, self.latency_ms, 1.0, 0.0)
        return Trial(frozenset(self.nodes), not self.refused, differing, self.latency_ms, self.ratio, self.noise)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"nodes": list(self.nodes)}


class PathFile:
    """`path.jsonl`: a line with the hash of all settings, then a row for each trial; other settings start it afresh."""

    def __init__(self, folder: Path, settings: str):
        self._path = folder / FILE
        self._rows = _read(self._path, settings)
        self.kept = len(self._rows)
        partial = self._path.with_suffix(".partial")  # without a line that was cut off
        with partial.open("w", encoding="utf-8") as file:
            for values in ({"settings": settings}, *(row.to_dict() for row in self._rows)):
                file.write(json.dumps(values) + "\n")
        os.replace(partial, self._path)

    def find(self, names: frozenset[str]) -> Row | None:
        """The row of a mix that was finished before."""
        return next((row for row in self._rows if frozenset(row.nodes) == names), None)

    def add(self, row: Row) -> None:
        """Write a finished row, on the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row.to_dict()) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows.append(row)


def _read(path: Path, settings: str) -> list[Row]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what has no line end was being written
    if not lines or json.loads(lines[0]) != {"settings": settings}:
        return []
    return [row_of(json.loads(line)) for line in lines[1:]]


def row_of(values: Mapping[str, Any]) -> Row:
    """Read what `to_dict` wrote."""
    return Row(**{field.name: values[field.name] for field in fields(Row)} | {"nodes": tuple(values["nodes"])})


def heading() -> str:
    """The columns of `line`."""
    return f"{'INT8':>5} {'top-1':>6} {'drop':>6} {'same %':>6} {'ms':>6} {'× FP32':>13}  what is tried"


def line(row: Row) -> str:
    """A row as the terminal shows it."""
    ratio = MISSING if row.ratio is None else f"{row.ratio:.3f} ± {row.noise:.3f}"
    cells = (
        f"{len(row.nodes):>5} {number(row.top1):>6} {number(row.drop_pp):>6} {number(row.agreement, 1):>6} "
        f"{quantity(row.latency_ms):>6} {ratio:>13}"
    )
    return f"{cells}  {row.label}{f': refused, {row.refused}' if row.refused else ''}"
