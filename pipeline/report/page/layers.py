"""The report's section on layer precisions: what each engine computes in, and why each layer of a graph is quantized."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import MISSING, quantity
from pipeline.report.page.frame import table_head

_HEADS = ("Layer", "Operator", "Precision", "Scale", "Saturated", "Why")
_WORDS = ("Operator", "Precision", "Why")
_KINDS = (("int8", "INT8"), ("fp16", "FP16"), ("fp32", "FP32"))
Decisions = Mapping[str, Sequence[dict[str, Any]]]


def read_decisions(quantize: Artifact) -> dict[str, list[dict[str, Any]]]:
    """The rows of every `decisions-<precision>.json`, by precision."""
    names = sorted(name for name in quantize.outputs if name.startswith("decisions-"))
    return {
        name.removeprefix("decisions-").removesuffix(".json"): json.loads(
            quantize.path(name).read_text(encoding="utf-8")
        )
        for name in names
    }


def layers_section(variants: Sequence[dict[str, Any]], decisions: Decisions) -> str:
    """HTML of the section; "" where no engine's layers were counted and no graph was quantized."""
    counted = [variant for variant in variants if variant["layers"] and sum(variant["layers"].values())]
    if not counted and not decisions:
        return ""
    bars = "".join(_bar(variant) for variant in counted)
    key = "".join(f'<li><i class="box {kind}" aria-hidden="true"></i>{name}</li>' for kind, name in _KINDS)
    shown = f'<ul class="key">{key}</ul><div class="stacks card" role="list">{bars}</div>' if counted else ""
    return f"""<h2>Layer precisions</h2>
{shown}
{"".join(_decided(precision, rows) for precision, rows in decisions.items())}
<p class="note">Engines: what each layer computes in, counted in the built engine; compilers fuse layers, so counts differ \
between backends. Graphs: every product and residual sum, and why it is or is not quantized.</p>
"""


def _bar(variant: dict[str, Any]) -> str:
    layers, total = variant["layers"], sum(variant["layers"].values())
    parts = "".join(
        f'<i class="{kind}" style="flex-grow:{layers[kind]}"><b>{layers[kind]}</b></i>'
        for kind, _ in _KINDS
        if layers[kind]
    )
    words = ", ".join(f"{layers[kind]} {name}" for kind, name in _KINDS)
    return (
        f'<div class="strip" role="listitem" aria-label="{escape(variant["name"])}: {words}, of {total} layers">'
        f'<span class="name">{escape(variant["name"])}</span><span class="stack" aria-hidden="true">{parts}</span></div>'
    )


def _decided(precision: str, rows: Sequence[dict[str, Any]]) -> str:
    """One graph, closed until it is asked for: there may be hundreds of layers."""
    quantized = sum(row["quantized"] for row in rows)
    cells = "".join(_decision(row, "FP8" if precision == "fp8" else "INT8") for row in rows)
    return f"""<details class="card"><summary>The {escape(precision)} graph: {quantized} of {len(rows)} products and sums \
quantized</summary><div class="scroll"><table class="plain">{table_head(_HEADS, _WORDS)}
<tbody>{cells}</tbody></table></div></details>
"""


def _decision(row: dict[str, Any], name: str) -> str:
    role = f" ({row['role']})" if row["role"] else ""
    scales = ", ".join(f"{of['scale']:.3g}" for of in row["activations"]) or MISSING
    saturated = max((of["saturated"] for of in row["activations"]), default=None)
    return (
        f"<tr><th scope=row>{escape((row['module'] or row['node']) + role)}</th><td class=text>{escape(row['operator'])}</td>"
        f"<td class=text>{name if row['quantized'] else 'float'}</td><td>{scales}</td>"
        f"<td>{MISSING if saturated is None else f'{quantity(100 * saturated)} %'}</td>"
        f"<td class=text>{escape(row['reason'])}</td></tr>"
    )
