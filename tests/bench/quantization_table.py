"""The tables of docs/quantization.md, from results/quantization.json."""

from collections.abc import Mapping
from typing import Any

from bench.quantization_rows import ENGINES

HEADS = (
    "graph", "INT8 layers", "MB",
    *(head for title in ENGINES.values() for head in (f"{title}: top-1", "against FP32, 95 %", "agreement", "speed")),
)  # fmt: skip


def table(name: str, of: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A network's heading, where its rows are from, and the rows."""
    lines = [f"### {name}", "", f"{_told(of, rows)}; made by `make quantization`.", ""]
    lines += [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    return "\n".join([*lines, *(_line(label, row) for label, row in rows.items())]) + "\n"


def in_words(row: Mapping[str, Any]) -> str:
    """A row in a line of the terminal."""
    if "unavailable" in row:
        return str(row["unavailable"])
    return "  ".join(
        f"{title}: {row[engine]['error']}" if "error" in row[engine]
        else f"{title} {' '.join(_cells(row[engine]))}"
        for engine, title in ENGINES.items()
    )  # fmt: skip


def _told(of: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Machine, images, checkpoint, and which rows are of another way to make graphs."""
    told = f"{of['cpu']}; {of['images']} evaluation images; checkpoint {of['checkpoint'][:12]}"
    one_graph = [label for label, row in rows.items() if "layers" in row]
    if one_graph and any("settings" in row for row in rows.values()):
        return f"{told}; of one graph for both engines: {', '.join(one_graph)}"
    return told


def _line(label: str, row: Mapping[str, Any]) -> str:
    if "unavailable" in row:
        return f"| {label} | – | – | {row['unavailable']} |{' |' * 7}"
    # Rows from before each engine had a graph of its own have these of the one graph.
    engines = [row | row[engine] for engine in ENGINES]
    cells = [f"{label} (alpha {row['alpha']})" if "alpha" in row else label]
    cells += [_joined([_share(of.get("layers")) for of in engines]), _joined([_megabytes(of) for of in engines])]
    return f"| {' | '.join([*cells, *(cell for engine in ENGINES for cell in _cells(row[engine]))])} |"


def _joined(texts: list[str]) -> str:
    """One text where the engines' are equal."""
    return " / ".join(dict.fromkeys(texts))


def _share(layers: Mapping[str, int] | None) -> str:
    return f"{layers['int8']} of {sum(layers.values())}" if layers else "–"


def _megabytes(of: Mapping[str, Any]) -> str:
    return f"{of['bytes'] / 1e6:.1f}" if "bytes" in of else "–"


def _cells(of: Mapping[str, Any]) -> list[str]:
    """An engine's four."""
    if "error" in of:
        return ["does not run", "–", "–", "–"]
    speed = "–" if of["speed"] is None else f"{of['speed']:.2f}"
    if not of["finite"]:
        return ["NaN", "–", "–", speed]
    low, high = of["ci95"]
    return [
        f"{of['top1']:.2f}", f"{of['delta']:+.2f} ({low:+.2f} … {high:+.2f})", f"{of['agreement']:.2f}", speed,
    ]  # fmt: skip
