"""Whether each layer is quantized, why, and its ranges: saved by the quantize stage, printed by `quantize --explain`."""

import json
from pathlib import Path
from typing import Any

from calib.precision.policy import Decision
from export.quantize.int8 import Quantized
from export.quantize.qdq import FP8_MAX, INT8_MAX, fp16_scale
from pipeline.artifact import Artifact


def write_decisions(found: Quantized, path: Path, *, fp8: bool = False) -> None:
    """Write a row for each product and residual sum, with the graph's scales, and print how many are quantized."""
    highest = FP8_MAX if fp8 else INT8_MAX
    rows = [_row(decision, found, highest) for decision in found.decisions]
    quantized = sum(decision.int8 for decision in found.decisions)
    print(
        f"           quantized: {quantized} of {len(rows)} products and sums; the reason for each: t2t-edge quantize --explain"
    )
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _row(decision: Decision, found: Quantized, highest: int) -> dict[str, Any]:
    layer = decision.layer
    names = found.tensors.get(layer.name, ()) if decision.int8 else ()
    return {
        "node": layer.name, "module": layer.module, "operator": layer.operator, "role": layer.role,
        "weight_shape": list(layer.weight_shape), "quantized": decision.int8, "reason": decision.reason,
        "inputs": list(decision.inputs), "output": decision.output,
        "activations": [
            {
                "tensor": name, "amax": found.ranges[name].amax,
                "scale": float(fp16_scale(found.ranges[name].amax, highest)),
                "low": found.ranges[name].low, "high": found.ranges[name].high,
                "saturated": found.ranges[name].saturated,
            }
            for name in names
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
