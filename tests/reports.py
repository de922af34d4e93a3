"""Reports to test with: one made up, with every status, and one of real logits with all optional keys."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.values.details import add_details
from pipeline.report.write import build_report
from pipeline.tasks.comparison import compare
from pipeline.tasks.statistics import accuracy, agreement, correct_rows, paired_interval

REFERENCE = {"name": "PyTorch FP32", "top1": 88.1, "top5": 99.8}
MODE = {"threads": 2, "warmup": 10, "rounds": 10, "calls": 30, "timed_seconds_at_most": 10.0}
NO_GPU = "built, not run: no NVIDIA GPU here (libcuda.so.1: cannot open shared object file); evaluate it on the device"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def evaluated(backend: str, precision: str, top1: float | None, target: str | None = None, **changes: Any) -> Any:
    name = "-".join(part for part in (backend, precision, target) if part)
    known = top1 is not None
    row = {
        "name": name, "precision": precision, "backend": backend, "target": target,
        "status": "unavailable" if top1 is None else "pass" if top1 >= 0.99 * 88.1 else "fail",
        "reason": NO_GPU if top1 is None else "" if top1 >= 0.99 * 88.1 else f"top-1 {top1} % is below the gate",
        "top1": top1, "top5": 99.7 if known else None, "delta_top1_pp": top1 - 88.1 if top1 is not None else None,
        "ci95_pp": [top1 - 88.4, top1 - 87.9] if top1 is not None else None, "agreement": 98.0 if known else None,
        "size_bytes": 5_000_000, "layers": {"int8": 24, "fp16": 70, "fp32": 3} if target else None,
        "artifact": f"build/{name}/engine", "sha256": sha(name),
    }  # fmt: skip
    return row | changes


def measured(p50: float) -> dict[str, Any]:
    return {
        "latency_ms": {"p50": p50, "p90": 1.1 * p50, "p99": 1.4 * p50},
        "images_per_s": {"1": 1000 / p50, "8": 2500 / p50},
        "peak_memory_bytes": None, "energy_mj": None,
    }  # fmt: skip


def inputs() -> tuple[dict[str, Any], dict[str, Any]]:
    """Eleven variants: four of them on the CPU pass in each of two backends but one, three cannot run here."""
    rows = [
        evaluated("onnxruntime", "fp32", 88.1), evaluated("onnxruntime", "fp16", 88.09),
        evaluated("onnxruntime", "int8", 87.93), evaluated("onnxruntime", "int8-fp16", 87.95),
        evaluated("openvino", "fp32", 88.1), evaluated("openvino", "fp16", 88.11),
        evaluated("openvino", "int8", 87.9), evaluated("openvino", "int8-fp16", 72.84),
        *(evaluated("tensorrt_rtx", "int8-fp16", None, target) for target in ("sm86", "sm89", "sm120")),
    ]  # fmt: skip
    speeds = [2.41, 3.92, 4.13, 4.4, 2.02, 2.05, 1.43, 1.38]
    evaluation = {
        "reference": REFERENCE, "variants": rows,
        "dataset": {"name": "fashion-mnist", "classes": 10, "eval_images": 10000, "calibration_images": 512},
    }  # fmt: skip
    benchmark = {
        "machine": {"cpu": "a CPU with 2 cores", "gpu": None, "versions": {"onnxruntime": "1.31.1"}},
        "mode": MODE,
        "failed": {},
        "variants": {row["name"]: measured(speed) for row, speed in zip(rows, speeds, strict=False)},
    }
    return evaluation, benchmark


def build(evaluation: dict[str, Any], benchmark: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "run": "demo", "model": "t2t_vit_7", "preprocess_sha256": sha("p"), "gate_share": 0.99
    }  # fmt: skip
    return build_report(evaluation=evaluation, benchmark=benchmark, **(values | changes))


CLASSES = ("bag", "boot", "coat", "dress")
IMAGES = 600


def logits(seed: int = 0, noise: float = 0.0) -> NDArray[np.float32]:
    """(600, 4): right on about nine of ten images of `labels`; `noise` is added as quantization would."""
    generator = np.random.default_rng(0)
    found = generator.normal(size=(IMAGES, 4)) + 3.2 * np.eye(4)[labels()]
    return np.asarray(found + noise * np.random.default_rng(seed).normal(size=found.shape), dtype=np.float32)


def labels() -> NDArray[np.int64]:
    """(600,)."""
    return np.arange(IMAGES, dtype=np.int64) % 4


def image_names() -> list[str]:
    """A name for each image."""
    return [f"{CLASSES[label]}/{index:03d}.png" for index, label in enumerate(labels())]


def timed(p50: float, generator: np.random.Generator) -> dict[str, Any]:
    """An engine of benchmark.json whose calls of a batch of 1 take about `p50` ms."""
    times = {size: np.sort(p50 * int(size) ** 0.8 * generator.gamma(60, 1 / 60, 500)) for size in ("1", "8")}
    return {
        "latency_ms": {f"p{share}": float(np.percentile(times["1"], share)) for share in (50, 90, 99)},
        "images_per_s": {size: 1e3 * int(size) / float(np.median(values)) for size, values in times.items()},
        "peak_memory_bytes": None, "energy_mj": None,
        "percentiles_ms": {size: np.percentile(values, range(101)).tolist() for size, values in times.items()},
    }  # fmt: skip


def detailed(run: str = "demo", speed: float = 1.0) -> dict[str, Any]:
    """A report with comparisons and percentiles: FP32, two lossy engines and one that fails, from real logits."""
    reference, truth = logits(), labels()
    engines = {
        "onnxruntime-fp32": (logits(), 2.4), "openvino-fp16": (logits(1, 0.05), 2.0), "openvino-int8": (logits(2, 0.3), 1.4),
        "tensorrt-int8": (logits(3, 2.5), 0.6),
    }  # fmt: skip
    rows, compared, speeds, generator = [], {}, {}, np.random.default_rng(5)
    for name, (ours, p50) in engines.items():
        backend, precision = name.split("-")
        top1 = accuracy(ours, truth)
        passes = top1 >= 0.99 * accuracy(reference, truth)
        rows.append(evaluated(backend, precision, top1) | {
            "status": "pass" if passes else "fail", "reason": "" if passes else f"top-1 {top1:.2f} is under the gate",
            "top5": 100.0, "delta_top1_pp": top1 - accuracy(reference, truth), "agreement": agreement(ours, reference),
            "ci95_pp": list(paired_interval(correct_rows(ours, truth), correct_rows(reference, truth))),
            "layers": {"int8": 24 * (precision == "int8"), "fp16": 0, "fp32": 12},
        })  # fmt: skip
        compared[name] = compare(ours, reference, truth, CLASSES, image_names())
        speeds[name] = timed(p50 * speed, generator)
    speeds["tensorrt-int8"] |= {
        "device_latency_ms": {"p50": 0.5, "p90": 0.52, "p99": 0.61, "copy_in": 0.03, "compute": 0.44, "copy_out": 0.02},
        "run_mode": {"graphs": {"1": "", "8": "the runtime allocates in it"}, "sync": "blocking", "transfers": True},
        "energy": {
            "1": {"mj_per_image": 3.25, "watts": 6.5, "source": "INA3221 rails", "reason": "", "clocks_mhz": {"graphics": 918}},
            "8": {"mj_per_image": None, "source": None, "reason": "too short"},
        },
    }  # fmt: skip
    rows.append(evaluated("tensorrt_rtx", "int8-fp16", None, "sm86"))
    evaluation = {
        "reference": {"name": "PyTorch FP32", "top1": accuracy(reference, truth), "top5": 100.0}, "variants": rows,
        "dataset": {"name": "clothes", "classes": 4, "eval_images": IMAGES, "calibration_images": 64},
    }  # fmt: skip
    machine = {"cpu": "a CPU, 2 cores, INT8 instructions: none", "gpu": None, "versions": {"onnxruntime": "1.31.1"}}
    benchmark = {"machine": machine, "mode": MODE, "failed": {}, "variants": speeds}
    report = build(evaluation, benchmark, run=run)
    return add_details(report, evaluation["reference"], compared, benchmark)
