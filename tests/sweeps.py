"""Outcomes of sweeps to test with: made-up networks and image sizes, with the engines of `reports.build`."""

from collections.abc import Callable
from itertools import product
from typing import Any

from reports import build, evaluated, measured

from pipeline.sweep.outcome.outcome import PointOutcome, SweepOutcome

REFERENCE = {"name": "PyTorch FP32", "top1": 88.1, "top5": 99.8}
MACHINE = {"cpu": "a CPU with 2 cores", "gpu": None, "versions": {"onnxruntime": "1.31.1"}}
Engines = list[tuple[str, str, float | None, float | None]]  # backend, precision, top-1, p50 of each


def report(
    run: str, engines: Engines, *, images: int = 10000, machine: dict[str, Any] = MACHINE, model: str = "net"
) -> Any:
    """A report.json of a run with these engines; one under 87.219 % fails the gate, one without top-1 could not run."""
    rows = [evaluated(backend, precision, top1) for backend, precision, top1, _ in engines]
    dataset = {"name": "fashion-mnist", "classes": 10, "eval_images": images, "calibration_images": 512}
    speeds = {row["name"]: measured(p50) for row, (*_, p50) in zip(rows, engines, strict=True) if p50 is not None}
    benchmark = {"machine": machine, "failed": {}, "variants": speeds}
    return build({"reference": REFERENCE, "variants": rows, "dataset": dataset}, benchmark, run=run, model=model)


def point(name: str, values: dict[str, Any], engines: Engines | None, **changes: Any) -> PointOutcome:
    """A done point with these engines; one of None is not done, as `changes` say."""
    status = "failed" if engines is None else "done"
    fields: dict[str, Any] = {
        "status": status, "reason": "no space left on device" if engines is None else None,
        "stage": "train" if engines is None else None, "probe_ms": None, "seconds": 60.0,
        "report": None if engines is None else report(name, engines),
    }  # fmt: skip
    return PointOutcome(name=name, values=values, **(fields | changes))


def outcome(points: list[PointOutcome], axes: dict[str, list[Any]], **changes: Any) -> SweepOutcome:
    """A sweep of these points without limits."""
    fields: dict[str, Any] = {
        "name": "nets", "base": "recipes/demo.yaml", "budget_ms": None, "min_score": None, "seconds": 3700.0,
        "stages": {"train": (2, 2), "export": (4, 0)},
    }  # fmt: skip
    return SweepOutcome(points=points, axes=axes, **(fields | changes))


def grid(
    axes: dict[str, list[Any]], engines_of: Callable[[dict[str, Any]], Engines | None], **changes: Any
) -> SweepOutcome:  # fmt: skip
    """Every combination of the axes' values, with the engines that `engines_of` gives it."""
    points = []
    for chosen in product(*axes.values()):
        values = dict(zip(axes, chosen, strict=True))
        points.append(point("-".join(map(str, chosen)), values, engines_of(values)))
    return outcome(points, axes, **changes)


AXES: dict[str, list[Any]] = {"model.name": ["small", "large"], "model.image_size": [32, 64]}


def small_engines(values: dict[str, Any]) -> Engines:
    """Large is 0.5 more accurate and takes twice as long, 64 pixels 0.2 and four times; INT8 loses 0.1 and takes half."""
    top1 = 87.6 + (0.5 if values["model.name"] == "large" else 0.0) + (0.2 if values["model.image_size"] == 64 else 0.0)
    p50 = 1.0 * (2 if values["model.name"] == "large" else 1) * (4 if values["model.image_size"] == 64 else 1)
    return [
        ("onnxruntime", "fp32", top1, p50), ("onnxruntime", "int8", top1 - 0.1, p50 / 2),
        ("openvino", "fp32", top1, 0.8 * p50), ("openvino", "int8", 80.0, 0.3 * p50), ("tensorrt_rtx", "int8-fp16", None, None),
    ]  # fmt: skip


def small(**changes: Any) -> SweepOutcome:
    """Two networks at two sizes, all done."""
    return grid(AXES, small_engines, **changes)
