"""What a sensitivity run writes while it runs, so that the next one can reuse it: ranges, and a row for each measurement.

Both carry a key, a hash of everything that they depend on; those with another key are not reused.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from calib.precision.sensitivity import Effect
from export.quantize.ranges import Range

RANGES, ROWS = "ranges.json", "rows.jsonl"
Name = tuple[str, str]  # "layer" or "group", and its name


def read_ranges(folders: Sequence[Path], key: str) -> dict[str, Range] | None:
    """The ranges by tensor that were stored with this `key` in the first of `folders` that has them."""
    for folder in folders:
        try:
            stored = json.loads((folder / RANGES).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        if stored["key"] == key:
            return {name: Range(**values) for name, values in stored["ranges"].items()}
    return None


def write_ranges(folder: Path, key: str, ranges: dict[str, Range]) -> None:
    """Store ranges, whole or not at all."""
    values = {"key": key, "ranges": {name: asdict(found) for name, found in ranges.items()}}
    _replace(folder / RANGES, json.dumps(values))


class Rows:
    """The measurements so far, by name; each is written to the file when it is added. A context manager."""

    def __init__(self, folder: Path, key: str, earlier: Sequence[Path] = ()):
        """Read the rows with this `key` in `earlier` folders and in `folder`, where new ones go. An incomplete last line is
        dropped."""
        self._key = key
        self.effects: dict[Name, Effect] = {}
        for place in (*earlier, folder):
            self.effects |= _read(place / ROWS, key)
        path = folder / ROWS
        _replace(path, "".join(self._line(name, effect) for name, effect in self.effects.items()))
        self._file = path.open("a", encoding="utf-8")

    def add(self, name: Name, effect: Effect) -> None:
        """Add one measurement, to the file as well."""
        self._file.write(self._line(name, effect))
        self._file.flush()
        self.effects[name] = effect

    def __enter__(self) -> "Rows":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _line(self, name: Name, effect: Effect) -> str:
        return json.dumps({"key": self._key, "kind": name[0], "name": name[1]} | effect.to_dict()) + "\n"


def _read(path: Path, key: str) -> dict[Name, Effect]:
    if not path.is_file():
        return {}
    found: dict[Name, Effect] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        row = _parse(line)
        if row is not None and row.get("key") == key:
            found[row["kind"], row["name"]] = Effect(row["kl"], row["snr_db"], row["agreement"])
    return found


def _parse(line: str) -> dict[str, Any] | None:
    """None for a line that an interruption left incomplete."""
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
