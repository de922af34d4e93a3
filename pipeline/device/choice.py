"""Which engines of a finished run a bundle may build: those whose graph passes the gate and that did not fail it themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.errors import InputError
from export.engines.spec import TORCH_BACKENDS, graph_of, why_not
from export.engines.tensorrt.options import BuildOptions
from pipeline.artifact import MANIFEST, Artifact, hash_of, read_artifact
from pipeline.console.exit_status import GateFailed
from pipeline.console.known_runs import finishing
from pipeline.device.contents import DEVICE_BACKENDS, BackendPlan
from pipeline.measure.evaluate_stage import failure_reason
from pipeline.tasks.task import Answers, Labels, Task, task_named
from pipeline.tasks.words import CLASSIFICATION

STAGES = ("export", "calibrate", "quantize", "build", "evaluate", "benchmark", "report")
ALWAYS = ("tensorrt", "onnxruntime")  # backends that a bundle has engines of, whether the recipe names them or not
NO_FP16 = (
    "no engine of the recipe needs a graph with FP16, so none was made; name fp16 and int8-fp16 in quantize.precisions, or "
    "engines of tensorrt in build"
)
NO_PYTORCH = "PyTorch runs it, and a device has none: this engine is for machines with a checkout"
_BATCH_SIZES = (1, 1, 8)  # of those that it does not name


@dataclass(frozen=True)
class FinishedRun:
    """A run whose stages were made from each other: `artifacts` by stage, `parts` of the recipe as the manifests have them."""

    folder: Path
    artifacts: dict[str, Artifact]
    parts: dict[str, Any]
    report: dict[str, Any]

    @property
    def task(self) -> Task:
        """What the network is for."""
        return task_named(self.report.get("task", CLASSIFICATION.task))


@dataclass(frozen=True)
class Choice:
    """The engines of a bundle by backend, and the graphs and engines that are left out, with their reasons."""

    engines: dict[str, tuple[BackendPlan, ...]]
    left_out: dict[str, str]

    def graphs(self) -> list[str]:
        """The name of every graph that an engine needs, in order."""
        plans = [(backend, plan) for backend, plans in self.engines.items() for plan in plans]
        return list(dict.fromkeys(graph_of(backend, name) for backend, plan in plans for name in plan.precisions))


def read_run(folder: Path) -> FinishedRun:
    """Read a finished run. InputError where a stage is missing, or older than a stage that it was made from."""
    artifacts: dict[str, Artifact] = {}
    inputs: dict[str, dict[str, str]] = {}
    parts: dict[str, Any] = {}
    places: dict[str, Any] = {}
    for stage in STAGES:
        artifact = read_artifact(folder / stage)
        if artifact is None:
            raise _unfinished(folder, f"no complete {folder / stage}")
        values = json.loads((folder / stage / MANIFEST).read_text(encoding="utf-8"))
        artifacts[stage], inputs[stage] = artifact, values["inputs"]
        parts |= values["recipe"]
        places |= values.get("places", {})  # an earlier version kept them among the parts
    for stage, needed in inputs.items():
        for name, digest in needed.items():
            if name in artifacts and hash_of(artifacts[name].outputs) != digest:
                raise _unfinished(folder, f"{folder / stage} is older than {folder / name}")
    report = json.loads(artifacts["report"].path("report.json").read_text(encoding="utf-8"))
    for name, where in places.items():
        parts[name] = parts[name] | where
    return FinishedRun(folder, artifacts, parts, report)


def _unfinished(folder: Path, got: str) -> InputError:
    runs = ", ".join(sorted(found.parents[1].name for found in folder.parent.glob("*/report/report.json")))
    return InputError(
        "this run is not finished", got=got, allowed=f"finished runs: {runs or 'none'}",
        next_step=finishing(folder),
    )  # fmt: skip


def choose(run: FinishedRun, engine: str | None, graphs: Mapping[str, str]) -> Choice:
    """The engines for the bundle: for each backend in the recipe its precisions, for other backends all, without those
    that failed or were built of a graph of their own.

    `graphs` has for each graph, by its name, the reason why it fails, "" where it passes. With `engine`, an engine of the
    report, only its precision is used. GateFailed where no engine is left.
    """
    rows = {(row["backend"], row["precision"]): row for row in run.report["variants"] if row["status"] == "fail"}
    # a bundle holds the graphs of the quantize stage, and this engine is right with another one alone
    rows |= {
        (row["backend"], row["precision"]): row | {"reason": row["fault"]}
        for row in run.artifacts["build"].notes["engines"] if "left_out" in row
    }  # fmt: skip
    precisions, wanted = _wanted_precisions(run, None), _wanted_precisions(run, engine)
    needed = {graph_of(backend, name) for backend in backends_of(run) for name in wanted}
    left_out = {f"graph {name}": reason for name, reason in graphs.items() if reason and name in needed}
    left_out |= {row["name"]: row["reason"] for row in rows.values() if row["precision"] in wanted}
    left_out |= {
        row["name"]: NO_PYTORCH for row in run.report["variants"]
        if row["backend"] in TORCH_BACKENDS and row["status"] == "pass" and row["precision"] in wanted
    }  # fmt: skip
    engines = {}
    for backend in backends_of(run):
        parts = [part for part in run.parts["build"] if part["backend"] == backend]
        if not parts and backend in ALWAYS:
            if backend == "tensorrt" and not any("fp16" in name for name in precisions):
                left_out["tensorrt in FP16"] = NO_FP16
            parts = [{"precisions": list(precisions), "batch_sizes": _BATCH_SIZES, "options": {}, "targets": ()}]
        allowed = {
            name for name in precisions
            if not graphs[graph_of(backend, name)] and (backend, name) not in rows and not why_not(backend, name)
        }  # fmt: skip
        if plans := _plans(parts, wanted if engine else None, allowed):
            engines[backend] = plans
    if not engines:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise GateFailed(f"no engine of {engine or run.folder} may go into a bundle: {reasons}")
    return Choice(engines, left_out)


def backends_of(run: FinishedRun) -> list[str]:
    """The backends that a device may have engines of: the recipe's, and those that go into every bundle."""
    return [
        name for name in DEVICE_BACKENDS if name in ALWAYS or name in {part["backend"] for part in run.parts["build"]}
    ]


def _plans(parts: list[dict[str, Any]], wanted: tuple[str, ...] | None, allowed: set[str]) -> tuple[BackendPlan, ...]:
    """A plan for each of a backend's `parts` of the recipe that has an `allowed` precision. `wanted` keeps only the parts
    with these precisions; where no part has one, it is built with the options of the first part."""
    if wanted is not None:
        parts = [part for part in parts if set(wanted) & set(part["precisions"])] or parts[:1]
    plans = []
    for part in parts:
        precisions = tuple(name for name in wanted or part["precisions"] if name in allowed)
        low, typical, high = part["batch_sizes"]
        options, targets = BuildOptions(**part["options"]), tuple(part["targets"])
        if precisions:
            plans.append(BackendPlan(precisions, (low, typical, high), options, targets))
    return tuple(plans)


def _wanted_precisions(run: FinishedRun, engine: str | None) -> tuple[str, ...]:
    rows = {row["name"]: row for row in run.report["variants"]}
    if engine is None:
        return tuple(dict.fromkeys(row["precision"] for row in rows.values()))
    if engine not in rows:
        raise InputError("there is no such engine in the report of this run", got=engine, allowed=", ".join(rows))
    if rows[engine]["status"] == "fail":
        raise GateFailed(f"{engine} may not go into a bundle: {rows[engine]['reason']}")
    return (rows[engine]["precision"],)


def graph_failure(task: Task, graph: Answers, reference: Answers, labels: Labels, share: float) -> str:
    """Why a graph, run by ONNX Runtime, fails the gate; "" if it passes."""
    score, before = _scores(task, graph, reference, labels)
    return failure_reason(task, graph, graph, reference, score, before, share)


def describe_graph(task: Task, graph: Answers, reference: Answers, labels: Labels) -> dict[str, Any]:
    """The accuracy of a graph on these images, as the host measured it."""
    words, (score, before) = task.words, _scores(task, graph, reference, labels)
    return {
        "images": len(labels), words.score: score, words.delta: score - before,
        "agreement": task.agreement(graph, reference),
    }  # fmt: skip


def _scores(task: Task, graph: Answers, reference: Answers, labels: Labels) -> tuple[float, float]:
    """Of a graph and of the reference, percent."""
    score, before = (task.scores(answers, labels)[task.words.score] for answers in (graph, reference))
    return score, before
