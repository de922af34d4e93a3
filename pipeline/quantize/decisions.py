"""Whether each layer is quantized, why, and its ranges: saved by the quantize stage, printed by `quantize --explain`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calib.precision.policy import Decision
from export.graph.signs import never_negative
from export.quantize.int8 import Quantized
from export.quantize.qdq import FP8_MAX, activation_grid, fp16_scale
from pipeline.artifact import Artifact
from pipeline.quantize.graphs import QuantizedGraph


def write_decisions(graph: QuantizedGraph, name: str, folder: Path) -> None:
    """Write `decisions-<name>.json`, a row with its scales for each product and residual sum; print how many are quantized."""
    proto, found = graph.as_written()
    positive = never_negative(proto)

    def scale(tensor: str) -> float:
        of = found.ranges[tensor]
        if graph.fp8:
            return float(fp16_scale(of.amax, FP8_MAX))
        return float(activation_grid(of.amax, tensor in positive, found.dialect, of.span)[0])

    rows = [_row(decision, found, scale) for decision in found.decisions]
    quantized = sum(decision.int8 for decision in found.decisions)
    print(
        f"           {name}: quantized {quantized} of {len(rows)} products and sums; the reason for each: "
        "t2t-edge quantize --explain"
    )
    (folder / f"decisions-{name}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _row(decision: Decision, found: Quantized, scale: Callable[[str], float]) -> dict[str, Any]:
    layer = decision.layer
    names = found.tensors.get(layer.name, ()) if decision.int8 else ()
    return {
        "node": layer.name, "module": layer.module, "operator": layer.operator, "role": layer.role,
        "weight_shape": list(layer.weight_shape), "quantized": decision.int8, "reason": decision.reason,
        "inputs": list(decision.inputs), "output": decision.output,
        "activations": [
            {
                "tensor": name, "amax": found.ranges[name].amax, "scale": scale(name),
                "low": found.ranges[name].low, "high": found.ranges[name].high,
                "saturated": found.ranges[name].saturated,
            }
            for name in names if name not in found.carried
        ],
    }  # fmt: skip


def print_explanation(quantize: Artifact) -> None:
    """Print every layer of every quantized precision: its precision, scale, range, saturation and the reason."""
    for path in sorted(quantize.folder.glob("decisions-*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        base = path.stem.removeprefix("decisions-")
        print(f"\n{base}: {sum(row['quantized'] for row in rows)} of {len(rows)} products and residual sums quantized")
        width = max(len(_label(row)) for row in rows)
        print(f"  {'layer':<{width}}  {'':<5} {'scale':>9}  {'range of the activation':<23} {'saturated':>9}  why")
        for row in rows:
            for line in _lines(row, base, width):
                print(f"  {line}")


def _lines(row: dict[str, Any], base: str, width: int) -> list[str]:
    precision = ("fp8" if base == "fp8" else "int8") if row["quantized"] else "float"
    first = f"{_label(row):<{width}}  {precision:<5} "
    if not row["activations"]:
        return [f"{first}{'':>9}  {'':<23} {'':>9}  {row['reason']}"]
    return [
        f"{first if index == 0 else ' ' * len(first)}{of['scale']:>9.3g}  "
        f"{of['low']:>10.4g} … {of['high']:<10.4g} {100 * of['saturated']:>8.3f}%  {row['reason'] if index == 0 else ''}"
        for index, of in enumerate(row["activations"])
    ]


def _label(row: dict[str, Any]) -> str:
    kind = f" ({row['role']})" if row["role"] else "" if row["weight_shape"] and row["module"] else f" ({row['node']})"
    return f"{row['module'] or row['operator']}{kind}"
