"""What of a finished run goes into a bundle: graphs that pass the gate, never an engine that failed it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from export.engines.tensorrt.options import BuildOptions
from pipeline.artifact import MANIFEST, Artifact, hash_of, read_artifact
from pipeline.console.exit_status import GateFailed
from pipeline.device.contents import DEVICE_BACKENDS, BackendPlan
from pipeline.measure.evaluate_stage import Logits, failure_reason
from pipeline.measure.statistics import accuracy, agreement

STAGES = ("export", "calibrate", "quantize", "build", "evaluate", "benchmark", "report")
_BATCH_SIZES = (1, 1, 8)  # of backends that the recipe does not name


@dataclass(frozen=True)
class FinishedRun:
    """A run whose stages belong together: `artifacts` by stage, `parts` the recipe as the manifests hold it."""

    folder: Path
    artifacts: dict[str, Artifact]
    parts: dict[str, Any]
    report: dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """What goes along: engines by backend, and what stays out with its reason."""

    engines: dict[str, tuple[BackendPlan, ...]]
    left_out: dict[str, str]

    def precisions(self) -> list[str]:
        """Every graph that an engine needs, in order."""
        plans = [plan for plans in self.engines.values() for plan in plans]
        return list(dict.fromkeys(name for plan in plans for name in plan.precisions))


def read_run(folder: Path) -> FinishedRun:
    """A finished run. InputError where a stage is missing or was made from other files than those that are there."""
    artifacts: dict[str, Artifact] = {}
    inputs: dict[str, dict[str, str]] = {}
    parts: dict[str, Any] = {}
    for stage in STAGES:
        artifact = read_artifact(folder / stage)
        if artifact is None:
            raise _unfinished(folder, f"no complete {folder / stage}")
        values = json.loads((folder / stage / MANIFEST).read_text(encoding="utf-8"))
        artifacts[stage], inputs[stage] = artifact, values["inputs"]
        parts |= values["recipe"]
    for stage, needed in inputs.items():
        for name, digest in needed.items():
            if name in artifacts and hash_of(artifacts[name].outputs) != digest:
                raise _unfinished(folder, f"{folder / stage} is older than {folder / name}")
    report = json.loads(artifacts["report"].path("report.json").read_text(encoding="utf-8"))
    return FinishedRun(folder, artifacts, parts, report)


def _unfinished(folder: Path, got: str) -> InputError:
    runs = ", ".join(sorted(found.parents[1].name for found in folder.parent.glob("*/report/report.json")))
    return InputError(
        "this run is not finished", got=got, allowed=f"finished runs: {runs or 'none'}",
        next_step=f"make export RUN={folder.name}",
    )  # fmt: skip


def choose(run: FinishedRun, engine: str | None, graphs: Mapping[str, str]) -> Choice:
    """Engines that may go along: of each backend the recipe's precisions, or all, without what failed.

    `graphs` says for each precision that was looked at why its graph fails, "" where it passes. `engine` narrows to the
    precision of that engine of the report. GateFailed where nothing is left.
    """
    rows = {(row["backend"], row["precision"]): row for row in run.report["variants"] if row["status"] == "fail"}
    wanted = _wanted_precisions(run, engine)
    left_out = {f"graph {name}": reason for name, reason in graphs.items() if reason and name in wanted}
    left_out |= {row["name"]: row["reason"] for row in rows.values() if row["precision"] in wanted}
    engines = {}
    for backend in DEVICE_BACKENDS:
        parts = [part for part in run.parts["build"] if part["backend"] == backend]
        if not parts and backend in ("tensorrt", "onnxruntime"):
            parts = [{"precisions": list(graphs), "batch_sizes": _BATCH_SIZES}]
        allowed = {
            name for name in graphs if not graphs[name] and (backend, name) not in rows and _computes(backend, name)
        }  # fmt: skip
        if plans := _plans(parts, wanted if engine else None, allowed):
            engines[backend] = plans
    if not engines:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise GateFailed(f"nothing of {engine or run.folder} may go into a bundle: {reasons}")
    return Choice(engines, left_out)


def _plans(parts: list[dict[str, Any]], wanted: tuple[str, ...] | None, allowed: set[str]) -> tuple[BackendPlan, ...]:
    """A plan for each entry of a backend that has something `allowed`. `wanted` narrows to the entries with these
    precisions; what none of them has is built as the first entry says."""
    if wanted is not None:
        parts = [part for part in parts if set(wanted) & set(part["precisions"])] or parts[:1]
    plans = []
    for part in parts:
        precisions = tuple(name for name in wanted or part["precisions"] if name in allowed)
        low, typical, high = part["batch_sizes"]
        options, targets = BuildOptions(**part.get("options", {})), tuple(part.get("targets", ()))
        if precisions:
            plans.append(BackendPlan(precisions, (low, typical, high), options, targets))
    return tuple(plans)


def _computes(backend: str, precision: str) -> bool:
    """CPU engines have no FP8 kernels."""
    return not (precision.startswith("fp8") and backend in ("onnxruntime", "openvino"))


def _wanted_precisions(run: FinishedRun, engine: str | None) -> tuple[str, ...]:
    rows = {row["name"]: row for row in run.report["variants"]}
    if engine is None:
        return tuple(dict.fromkeys(row["precision"] for row in rows.values()))
    if engine not in rows:
        raise InputError("there is no such engine in the report of this run", got=engine, allowed=", ".join(rows))
    if rows[engine]["status"] == "fail":
        raise GateFailed(f"{engine} is not for a bundle: {rows[engine]['reason']}")
    return (rows[engine]["precision"],)


def graph_failure(graph: Logits, reference: Logits, labels: NDArray[np.int64], min_relative_top1: float) -> str:
    """Why a graph as ONNX Runtime computes it fails the gate, "" if it does not."""
    top1, reference_top1 = accuracy(graph, labels), accuracy(reference, labels)
    return failure_reason(graph, graph, reference, top1, reference_top1, min_relative_top1)


def describe_graph(graph: Logits, reference: Logits, labels: NDArray[np.int64]) -> dict[str, Any]:
    """What the host found of a graph on these images."""
    top1 = accuracy(graph, labels)
    return {
        "images": len(labels), "top1": top1, "delta_top1_pp": top1 - accuracy(reference, labels),
        "agreement": agreement(graph, reference),
    }  # fmt: skip
