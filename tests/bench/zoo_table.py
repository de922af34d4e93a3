"""The table of docs/networks.md, from the rows of results/zoo.json."""

from collections.abc import Mapping
from typing import Any

from bench.zoo_networks import FORTY, kind_of

HEADS = (
    "network", "kind", "px", "export", "ONNX Runtime: INT8", "agreement %", "× FP32", "OpenVINO: INT8", "agreement %", "× FP32",
    "RTX: INT8",
)  # fmt: skip
SEPARATOR = "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|"


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, in the order of the forty, others behind; then what failed or is slow, by machine and versions."""
    names = [name for name in (*FORTY, *rows) if name in rows]
    order = list(dict.fromkeys(names))
    lines = [" | ".join(("", *HEADS, "")).strip(), SEPARATOR, *(_line(name, rows[name]) for name in order)]
    return "\n".join([*lines, "", *_notes(rows), ""])


def _line(name: str, row: Mapping[str, Any]) -> str:
    cells = [f"`{name}`", kind_of(name), str(row["settings"]["size"])]
    if "engines" not in row:
        cells += [f"failed: {row['failed']}", *[""] * 7]
    else:
        cells += [row["way"], *(cell for of in row["engines"].values() for cell in _engine(of)), _share(row["rtx"])]
    return f"| {' | '.join(cells)} |"


def _engine(of: Mapping[str, Any]) -> list[str]:
    agreement = "–" if of["agreement"] is None else f"{of['agreement']:.1f}"
    return [_share(of["layers"]), agreement, "–" if of["speed"] is None else f"{of['speed']:.2f}"]


def _share(layers: Mapping[str, int] | None) -> str:
    return f"{layers['int8']} of {sum(layers.values())}" if layers else "–"


def _notes(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    machines = sorted({_machine(row["settings"]) for row in rows.values()})
    failed = [name for name, row in rows.items() if "failed" in row]
    faults = [
        f"`{name}` on {engine}: {of['reason']}"
        for name, row in rows.items()
        for engine, of in row.get("engines", {}).items()
        if "layers compute in floating point here" in of["reason"] or "does not compute" in of["reason"]
    ]
    return [
        f"{len(rows)} networks, {len(failed)} failed. {'; '.join(machines)}; made by `make zoo`.",
        *(
            ["", "Engines that compute a graph of their own, or wrongly:", "", *(f"- {text}" for text in faults)]
            if faults
            else []
        ),
    ]


def _machine(settings: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
    return f"{settings['cpu']}; {versions}"
