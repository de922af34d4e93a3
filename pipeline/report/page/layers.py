"""The report's section on layer precisions: what each engine computes in, and why each layer of a graph is quantized."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import MISSING, quantity
from pipeline.report.page.render import Section, section

_HEADS = ("Layer", "Operator", "Precision", "Scale", "Saturated", "Why")
_WORDS = ("Operator", "Precision", "Why")
_KINDS = (("int8", "INT8"), ("fp8", "FP8"), ("bf16", "BF16"), ("fp16", "FP16"), ("fp32", "FP32"))
_ALWAYS = ("int8", "fp16", "fp32")
Decisions = Mapping[str, Sequence[dict[str, Any]]]


def read_decisions(quantize: Artifact) -> dict[str, list[dict[str, Any]]]:
    """The rows of every `decisions-<graph>.json`, by the graph's name."""
    names = sorted(name for name in quantize.outputs if name.startswith("decisions-"))
    return {
        name.removeprefix("decisions-").removesuffix(".json"): json.loads(
            quantize.path(name).read_text(encoding="utf-8")
        )
        for name in names
    }


def layers_section(variants: Sequence[dict[str, Any]], decisions: Decisions) -> Section | None:
    """Layers of each engine by precision, and each graph's decisions (closed: there may be hundreds of rows).

    None where no engine's layers were counted and no graph was quantized.
    """
    counted = [variant for variant in variants if variant["layers"] and sum(variant["layers"].values())]
    if not counted and not decisions:
        return None
    graphs = [
        {
            "name": name, "quantized": sum(row["quantized"] for row in rows),
            "rows": [_decision(row, "FP8" if name == "fp8" else "INT8") for row in rows],
        }
        for name, rows in decisions.items()
    ]  # fmt: skip
    kinds = _kinds([variant["layers"] for variant in counted])
    return section(
        "Layer precisions", "layers.html", engines=[_engine(variant) for variant in counted], graphs=graphs,
        kinds=kinds, heads=_HEADS, words=_WORDS,
    )  # fmt: skip


def _kinds(counts: Sequence[Mapping[str, int]]) -> list[tuple[str, str]]:
    """The kinds of layers to show with their names: BF16 only where an engine has some."""
    return [(kind, name) for kind, name in _KINDS if kind in _ALWAYS or any(row.get(kind) for row in counts)]


def _engine(variant: dict[str, Any]) -> dict[str, Any]:
    """An engine's bar: its `name`, `layers` by kind, and the same in `words`."""
    layers, total = variant["layers"], sum(variant["layers"].values())
    words = ", ".join(f"{layers[kind]} {name}" for kind, name in _kinds([layers]))
    return {"name": variant["name"], "layers": layers, "words": f"{words}, of {total} layers"}


def _decision(row: dict[str, Any], quantized: str) -> dict[str, str]:
    """A layer of a graph, in words; `quantized` names the precision that it may have."""
    saturated = max((of["saturated"] for of in row["activations"]), default=None)
    return {
        "layer": (row["module"] or row["node"]) + (f" ({row['role']})" if row["role"] else ""),
        "operator": row["operator"], "precision": quantized if row["quantized"] else "float",
        "scales": ", ".join(f"{of['scale']:.3g}" for of in row["activations"]) or MISSING,
        "saturated": MISSING if saturated is None else f"{quantity(100 * saturated)} %", "reason": row["reason"],
    }  # fmt: skip
