"""What benchmarks keep: a JSON file with a row for each thing measured, and a page with its tables between two markers."""

import json
import os
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, Any]]


def read_kept(path: Path) -> Results:
    """By name; none where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep(path: Path, name: str, result: dict[str, Any]) -> Results:
    """Put one result into the file, in one move; the others stay."""
    kept = read_kept(path) | {name: result}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return kept


def differences(kept: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What was otherwise when a kept result was measured: `rounds 15 → 3`; a tool's version by its name."""
    found = []
    for key, now in settings.items():
        was = kept["settings"].get(key)
        if isinstance(now, dict):
            found += [
                f"{name} {(was or {}).get(name)} → {of}" for name, of in now.items() if (was or {}).get(name) != of
            ]
        elif was != now:
            found.append(f"{key} {was} → {now}")
    return found


def write_page(page: Path, texts: list[str], start: str, end: str) -> None:
    """Put the tables between the page's markers; the text around them is written by hand."""
    head, _, rest = page.read_text(encoding="utf-8").partition(start)
    _, found, tail = rest.partition(end)
    assert found, f"{page} has not both {start} and {end}"
    page.write_text("\n".join([head + start, "", *texts, end + tail]), encoding="utf-8")
