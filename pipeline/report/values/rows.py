"""Join evaluation and benchmark into what report.json holds: plain Python, so that a device writes the same report."""

from typing import Any

from pipeline.console.figures import quantity
from pipeline.tasks.statistics import pareto_front
from pipeline.tasks.words import Words, task_key, words_of

DATASET_KEYS = ("name", "classes", "eval_images", "calibration_images")
OPTIONAL_DATASET_KEYS = ("classes_without_images",)  # names; only there where evaluation lacks some
MACHINE_KEYS = ("cpu", "gpu", "versions")
_ABOUT_KEYS = ("name", "precision", "backend", "status", "reason")
_MEASURED_KEYS = (
    "latency_ms", "images_per_s", "size_bytes", "peak_memory_bytes", "energy_mj", "layers", "pareto", "artifact", "sha256",
)  # fmt: skip

_NOISE = 1.05  # by so much medians differ on a busy machine


def variant_keys(words: Words) -> tuple[str, ...]:
    """The keys of a variant, in their order."""
    return (*_ABOUT_KEYS, words.score, words.second, words.delta, "ci95_pp", "agreement", *_MEASURED_KEYS)


def join_report(
    *,
    run: str,
    model: str,
    evaluation: dict[str, Any],
    benchmark: dict[str, Any],
    preprocess_sha256: str,
    gate_share: float,
) -> dict[str, Any]:
    """Join the evaluation stage's and the benchmark stage's JSON; what is missing is null.

    `gate_share` is the share of FP32's score, 0–1, that an engine must keep; the task is the evaluation's. ValueError when the
    two do not belong together. `pipeline.report.write.check_report` checks the result where pydantic is.
    """
    words = words_of(evaluation)
    measured: dict[str, Any] = benchmark["variants"]
    names = [variant["name"] for variant in evaluation["variants"]]
    if unknown := sorted(set(measured) - set(names)):
        raise ValueError(f"the benchmark measured {unknown}, the evaluation knows {names}: run both stages again")
    sizes = sorted({size for values in measured.values() for size in values["images_per_s"] or {}}, key=int)
    failed: dict[str, str] = benchmark["failed"]
    variants = [
        _row(_after_benchmark(variant, failed.get(variant["name"])), measured.get(variant["name"]), sizes, words)
        for variant in evaluation["variants"]
    ]
    front = pareto_names(variants, words)
    for variant in variants:
        told = (variant["reason"], _slower_than_fp32(variant, variants))
        variant["reason"] = "; ".join(filter(None, told))
        variant["pareto"] = variant["name"] in front
    return {
        "schema": 1,
        "run": run,
        "model": model,
        **task_key(words),
        "dataset": _dataset(evaluation["dataset"]),
        "machine": {key: benchmark["machine"][key] for key in MACHINE_KEYS},
        "preprocess_sha256": preprocess_sha256,
        "gate": {words.gate: gate_share},
        "variants": variants,
        "recommended": recommended(variants, words),
    }


def _dataset(evaluated: dict[str, Any]) -> dict[str, Any]:
    more = {key: evaluated[key] for key in OPTIONAL_DATASET_KEYS if key in evaluated}
    return {key: evaluated[key] for key in DATASET_KEYS} | more


def _after_benchmark(evaluated: dict[str, Any], failure: str | None) -> dict[str, Any]:
    """The row of an engine that passed the gate and then failed in the benchmark: an error; others stay as they are."""
    if failure is None or evaluated["status"] != "pass":
        return evaluated
    return evaluated | {"status": "error", "reason": f"it passed the gate and failed in the benchmark: {failure}"}


def _row(
    evaluated: dict[str, Any], measured: dict[str, Any] | None, sizes: list[str], words: Words
) -> dict[str, Any]:  # fmt: skip
    """One row of the report; every measured variant has every batch size, null where it was not run at that one."""
    speed = measured or {"latency_ms": None, "images_per_s": None, "peak_memory_bytes": None, "energy_mj": None}
    rates = speed["images_per_s"]
    values = {
        **evaluated,
        "latency_ms": speed["latency_ms"],
        "images_per_s": {size: rates.get(size) for size in sizes} if rates else None,
        "peak_memory_bytes": speed["peak_memory_bytes"],
        "energy_mj": speed["energy_mj"],
        "pareto": False,  # known once all rows are there
    }
    return {key: values[key] for key in variant_keys(words)}


def _slower_than_fp32(variant: dict[str, Any], variants: list[dict[str, Any]]) -> str:
    """Said of an engine that passes and takes longer than FP32 on the same backend: its precision gains no speed there."""
    own = [
        other
        for other in _comparable(variants)
        if (other["backend"], other["precision"]) == (variant["backend"], "fp32")
    ]
    if not own or variant not in _comparable(variants):
        return ""
    mine, fp32 = variant["latency_ms"]["p50"], own[0]["latency_ms"]["p50"]
    if mine <= _NOISE * fp32:
        return ""
    said = f"slower than FP32 on the same backend: {quantity(mine)} ms against {quantity(fp32)} at batch 1"
    rates, theirs = variant["images_per_s"] or {}, own[0]["images_per_s"] or {}
    faster = [size for size, rate in rates.items() if rate and theirs.get(size) and rate > _NOISE * theirs[size]]
    return said + (f"; faster at batch {', '.join(faster)}" if faster else "")


def _comparable(variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that pass the gate and were timed."""
    return [variant for variant in variants if variant["status"] == "pass" and variant["latency_ms"]]


def pareto_names(variants: list[dict[str, Any]], words: Words) -> set[str]:
    """The variants on the front of latency (p50 at batch 1) against the task's score."""
    candidates = _comparable(variants)
    points = [(v["latency_ms"]["p50"], v[words.score]) for v in candidates]
    return {candidates[i]["name"] for i in pareto_front(points)}


def gate_failed(variants: list[dict[str, Any]]) -> bool:
    """Whether engines were judged and none passed; one that passed and failed in the benchmark did pass."""
    passed = any(v["status"] == "pass" or (v["status"] == "error" and v["agreement"] is not None) for v in variants)
    return not passed and any(v["status"] == "fail" for v in variants)


def recommended(variants: list[dict[str, Any]], words: Words) -> dict[str, str] | None:
    """The fastest of those that pass (p50 at batch 1); of equally fast ones the more accurate."""
    candidates = _comparable(variants)
    if not candidates:
        return None
    best = min(candidates, key=lambda v: (v["latency_ms"]["p50"], -v[words.score]))
    return {"name": best["name"], "backend": best["backend"]}
