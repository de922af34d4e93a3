"""The rows of docs/quantization.md that a recipe can express: the sweep's point of each, and what its report makes of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.quantization_networks import NETWORKS, parts_of

from calib.precision.policy import POLICIES

ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
METHODS = ("max", "entropy", "percentile", "mse", "smoothquant")
FOUR_BITS = {"policy": "full", "weight_bits": 4}  # where quantization after training loses most
COUNTS = (32, 128)  # calibration images, beside the 512 of all others
MADE_OF = ("quantize", "calibrate", "qat")  # what rows of a network differ in


@dataclass(frozen=True)
class Row:
    """`precision` of the run `point`, whose recipe has these `values`."""

    label: str
    point: str
    precision: str
    values: Mapping[str, Any]


def rows_of(network: str) -> list[Row]:
    """In the order of the table. FP32 and FP16 are of one run, which is called as the network is."""
    plain = _values(network, ["fp32", "fp16"])
    grid = [(policy, method) for policy in POLICIES if policy != "best" for method in METHODS]
    rows = [Row(precision, network, precision, plain) for precision in ("fp32", "fp16")]
    rows += [_int8(network, f"{policy} / {method}", {"policy": policy, "method": method}) for policy, method in grid]
    rows.append(_int8(network, "full / max / 4-bit weights", FOUR_BITS))
    label = "full / trained / 4-bit weights"
    trained = _values(network, ["fp32", "int8-qat"], quantize=FOUR_BITS, qat={"epochs": 1, "lr": 1e-4})
    rows.append(Row(label, _name(network, label), "int8-qat", trained))
    for method in ("max", "percentile", "entropy") if network == next(iter(NETWORKS)) else ():
        for count in COUNTS:
            quantize = {"policy": "weights", "method": method}
            rows.append(_int8(network, f"weights / {method} / {count}", quantize, calibrate={"images": count}))
    return rows


def points_of(rows: list[Row]) -> list[dict[str, Any]]:
    """The sweep's points, each once."""
    return list({row.point: {"name": row.point, **row.values} for row in rows}.values())


def row_of(row: Row, report: Mapping[str, Any], quantized: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a row, from its run's report and the manifest of its quantize stage."""
    variants = {variant["name"]: variant for variant in report["variants"]}
    made = {key: row.values[key] for key in MADE_OF if row.values.get(key)}
    kept = {"settings": made | {"versions": report["machine"]["versions"]}, "seconds": quantized["seconds"]}
    for engine in ENGINES:
        kept[engine] = _on_engine(variants[f"{engine}-fp32"], variants[f"{engine}-{row.precision}"])
    alpha = quantized["notes"]["quantized"].get(row.precision, {}).get("alpha")
    return kept if alpha is None else kept | {"alpha": alpha}


def _int8(network: str, label: str, quantize: Mapping[str, Any], **others: Any) -> Row:
    return Row(
        label, _name(network, label), "int8", _values(network, ["fp32", "int8"], quantize=dict(quantize), **others)
    )


def _values(network: str, precisions: list[str], **others: Any) -> dict[str, Any]:
    """The keys of a point. The demo's own `quantize` names graphs that nothing is built of here."""
    build = [{"backend": engine, "precisions": precisions} for engine in ENGINES]
    return {**parts_of(network), "quantize": {}, "build": build, **others}


def _name(network: str, label: str) -> str:
    return f"{network}-{re.sub('[^a-z0-9]+', '-', label).strip('-')}"


def _on_engine(fp32: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """One engine; the speed is FP32's median time over its own, one image, both of the same rounds of turns."""
    if ours["top1"] is None:
        return {"error": ours["reason"]}
    both = fp32["latency_ms"] and ours["latency_ms"]
    return {
        "top1": ours["top1"], "delta": ours["delta_top1_pp"], "ci95": ours["ci95_pp"], "agreement": ours["agreement"],
        "finite": "NaN or Inf" not in ours["reason"], "latency_ms": ours["latency_ms"] and ours["latency_ms"]["p50"],
        "speed": fp32["latency_ms"]["p50"] / ours["latency_ms"]["p50"] if both else None,
        "layers": ours["layers"], "bytes": ours["size_bytes"], "status": ours["status"], "reason": ours["reason"],
    }  # fmt: skip
