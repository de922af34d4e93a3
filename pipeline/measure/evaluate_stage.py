"""The evaluate stage: every engine on the evaluation images, compared with PyTorch FP32 and with ONNX Runtime.

The first comparison is the accuracy gate. The second uses ONNX Runtime on the engine's own graph, and tells a wrong engine
from a graph that lost accuracy: where ONNX Runtime computes the graph well and the engine does not, the engine is at fault.
That question is asked only where an engine answers otherwise than PyTorch on enough images to be one.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib.images import ImageSplit
from calib.preprocess import Preprocess
from export.cpu import available_cpus
from export.engines.engine import load_engine
from export.engines.sidecar import Expected, Sidecar
from export.engines.spec import CPU_BACKENDS
from export.runner import INPUT, OUTPUT, Runner
from pipeline.artifact import Artifact
from pipeline.data.batches import batches, evaluation_split, fitting
from pipeline.measure.engine_failure import Missing, close_engine, noted
from pipeline.tasks.task import Answers, Labels, Task, task_named
from pipeline.tasks.words import task_key

if TYPE_CHECKING:  # the device side has no pydantic
    from pipeline.recipe import Recipe

Logits = NDArray[np.float32]
GRAPH = "graph:"  # before the name of a graph: ONNX Runtime's logits of it
MIN_ENGINE_AGREEMENT = (
    97.0  # percent of images, or of pixels, on which an engine and ONNX Runtime must agree on the same graph
)


@dataclass(frozen=True)
class _Loaded:
    runner: Runner
    max_batch: int | None
    on_cpu: bool


def run(recipe: "Recipe", inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `evaluation.json` and the answers (one array for each engine that ran; `logits.npz`) into `folder`."""
    task = task_named(recipe.data.task)
    kept, share = task.words.kept, recipe.gate.share(task.words)
    with np.load(inputs["export"].path("reference.npz"), allow_pickle=False) as stored:
        reference, labels = stored[kept], stored["labels"]
    rows = inputs["build"].notes["engines"]
    answers, missing, split = _infer_all(recipe, task, inputs, rows, reference)
    scores = task.scores(reference, labels)
    variants = [
        evaluate_variant(task, row, answers, missing, reference, scores[task.words.score], labels, share)
        for row in rows
    ]
    evaluation = task_key(task.words) | {
        "reference": {"name": inputs["export"].notes.get("reference", "PyTorch FP32")} | scores,
        "dataset": {
            "name": recipe.data.name, "classes": len(split.classes), "eval_images": len(labels),
            "calibration_images": inputs["calibrate"].notes["images"],
        } | ({"classes_without_images": list(empty)} if (empty := task.absent(split, labels)) else {}),
        "variants": variants,
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=1), encoding="utf-8")
    np.savez_compressed(folder / f"{kept}.npz", **answers)  # type: ignore[arg-type]
    return {"variants": {row["name"]: row["status"] for row in variants}}


def _infer_all(
    recipe: "Recipe", task: Task, inputs: Mapping[str, Artifact], rows: list[dict[str, Any]], reference: Answers
) -> tuple[dict[str, Answers], Missing, ImageSplit]:
    """Answers of every engine that runs here, and of ONNX Runtime on the graph of every doubtful one (`graph:<name>`); why the
    other engines do not run; and the images. RuntimeError where no engine runs.
    """
    missing: Missing = {}
    with ExitStack() as stack:
        runners, spec, classes = _load_engines(stack, recipe.benchmark.threads, inputs, rows, missing)
        split = evaluation_split(recipe, classes)
        answers = _run_all(recipe, task, runners, split, spec, missing)
    if not answers:
        raise _none_ran(missing)
    graphs = _same_as_graphs(rows, answers)
    asked = [
        row for row in rows
        if row["name"] in answers and _graph(row) not in graphs and doubtful(task, answers[row["name"]], reference)
    ]  # fmt: skip
    with ExitStack() as stack:
        runners = _load_graphs(stack, recipe.benchmark.threads, inputs, asked)
        graphs |= _run_all(recipe, task, runners, split, spec, None)
    return answers | graphs, missing, split


def _load_engines(
    stack: ExitStack, threads: int, inputs: Mapping[str, Artifact], rows: list[dict[str, Any]], missing: Missing
) -> tuple[dict[str, _Loaded], Preprocess, tuple[str, ...]]:
    """Every engine that loads here; `stack` closes them. Preprocessing and classes of one."""
    runners: dict[str, _Loaded] = {}
    sidecars: list[Sidecar] = []
    for row in rows:
        if row["status"] != "built":
            continue
        with noted(row["name"], missing):
            made, name = graph_of_row(row, inputs)
            expected = Expected(onnx_sha256=made.outputs[name])
            sidecar, runner = load_engine(inputs["build"].folder / row["name"], threads, expected=expected)
            stack.callback(close_engine, row["name"], runner, missing)
            runners[row["name"]] = _Loaded(runner, sidecar.max_batch, row["backend"] in CPU_BACKENDS)
            sidecars.append(sidecar)
    if not sidecars:
        raise _none_ran(missing)
    return runners, sidecars[0].preprocess_spec(), sidecars[0].classes


def _load_graphs(
    stack: ExitStack, threads: int, inputs: Mapping[str, Artifact], rows: list[dict[str, Any]]
) -> dict[str, _Loaded]:
    """ONNX Runtime on the graphs of these engines; `stack` closes them."""
    from export.engines import onnxruntime_backend

    runners: dict[str, _Loaded] = {}
    for row in {_graph(row): row for row in rows}.values():
        made, name = graph_of_row(row, inputs)
        # literal for FP8, because ONNX Runtime makes an invalid graph when it fuses FP8 Q/DQ
        graph = onnxruntime_backend.load(made.path(name), threads, literal=name.startswith("fp8"))
        runners[_graph(row)] = _Loaded(stack.enter_context(graph), None, True)
    return runners


def _run_all(
    recipe: "Recipe", task: Task, runners: Mapping[str, _Loaded], split: ImageSplit, spec: Preprocess,
    missing: Missing | None,
) -> dict[str, Answers]:  # fmt: skip
    """Answers by name, without those in `missing`, or errors where that is None. A CPU's engines of few threads run side by side,
    so that no core is idle; a GPU's in turn.
    """
    if not runners:
        return {}
    lost: Missing = {} if missing is None else missing
    collected: dict[str, list[Answers]] = {name: [] for name in runners}

    def infer(images: NDArray[np.uint8], name: str) -> None:
        with noted(name, missing):
            logits = infer_in_chunks(runners[name].runner, images, runners[name].max_batch)
            collected[name] += [task.answers(part) for part in logits]

    title = "evaluating engines" if missing is not None else "evaluating graphs"
    with ThreadPoolExecutor(max(1, available_cpus() // recipe.benchmark.threads)) as pool:
        for images in batches(split, spec, recipe.evaluate.batch_size, title=title):
            waiting = [name for name in runners if name not in lost]
            list(pool.map(partial(infer, images), [name for name in waiting if runners[name].on_cpu]))
            for name in waiting:
                if not runners[name].on_cpu:
                    infer(images, name)
    return {name: np.concatenate(parts) for name, parts in collected.items() if name not in lost}


def _graph(row: Mapping[str, Any]) -> str:
    return f"{GRAPH}{row['graph']}"


def _same_as_graphs(rows: list[dict[str, Any]], answers: Mapping[str, Answers]) -> dict[str, Answers]:
    """The answers of ONNX Runtime's engines, which are graphs: these need not be computed for a second time."""
    return {
        _graph(row): answers[row["name"]] for row in rows
        if row["backend"] == "onnxruntime" and row["name"] in answers and not row["graph"].startswith("fp8")
    }  # fmt: skip


def graph_of_row(row: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> tuple[Artifact, str]:
    """The graph that the engine of a build stage's `row` was built of: the stage that made it, and the file's name there."""
    return inputs["build" if "left_out" in row else "quantize"], f"{row['graph']}.onnx"


def _none_ran(missing: Missing) -> RuntimeError:
    reasons = "; ".join(f"{name}: {why.reason}" for name, why in missing.items())
    return RuntimeError(f"no engine of this run can run on this machine: {reasons}")


def infer_in_chunks(runner: Runner, images: NDArray[np.uint8], max_batch: int | None) -> list[Logits]:
    """Logits of `images` (N, H, W, 3), in pieces of at most `max_batch`, or smaller ones where images are large."""
    size = fitting(max_batch or len(images), *images.shape[1:3])
    return [
        np.asarray(runner.infer({INPUT: images[start : start + size]})[OUTPUT], dtype=np.float32)
        for start in range(0, len(images), size)
    ]


def evaluate_variant(
    task: Task, row: dict[str, Any], answers: Mapping[str, Answers], missing: Missing, reference: Answers,
    reference_score: float, labels: Labels, share: float,
) -> dict[str, Any]:  # fmt: skip
    """One engine of `evaluation.json`, from its `row` of the build stage, its `answers` and those of `graph:<name>`, which may be
    missing where it is not `doubtful`.

    `missing` has the reason of each engine that was built but has no answers; `reference_score` is that of the `reference`,
    percent, `share` the gate's.
    """
    words = task.words
    variant = {
        key: row[key]
        for key in ("name", "backend", "precision", "target", "graph", "reason", "size_bytes", "layers", "sha256")
    }
    variant["artifact"] = None if row["sha256"] is None else f"build/{row['name']}"
    measured = dict.fromkeys((words.score, words.second, words.delta, "ci95_pp", "agreement"))
    if row["status"] != "built":
        return variant | measured | {"status": row["status"]}
    if row["name"] not in answers:
        why = missing[row["name"]]
        text = "not run" if why.status == "unavailable" else "but it failed when it was run"
        return variant | measured | {"status": why.status, "reason": f"built, {text}: {why.reason}"}
    ours = answers[row["name"]]
    scores, graph = task.scores(ours, labels), answers.get(_graph(row))
    failure = failure_reason(task, ours, graph, reference, scores[words.score], reference_score, share)
    told = (failure or fallback(row["precision"], row["layers"]), row.get("alarm", ""), row.get("fault", ""))
    return variant | {
        "status": "fail" if failure else "pass", "reason": "; ".join(filter(None, told)),
        words.score: scores[words.score], words.second: scores[words.second],
        words.delta: scores[words.score] - reference_score,
        "ci95_pp": list(task.interval(ours, reference, labels)), "agreement": task.agreement(ours, reference),
    }  # fmt: skip


def fallback(precision: str, layers: Mapping[str, int] | None) -> str:
    """A note where the engine of an INT8 graph has no INT8 layer; "" otherwise, or where its layers are not known."""
    if "int8" not in precision or not layers or layers["int8"]:
        return ""
    return (
        f"none of its {sum(layers.values())} layers computes in INT8 here: this backend needs Q/DQ in other places of the "
        "graph, so it dequantizes and computes in floating point"
    )


def doubtful(task: Task, ours: Answers, reference: Answers) -> bool:
    """Whether an engine's answers differ so much from PyTorch's that it, and not the precision, may be at fault."""
    return task.agreement(ours, reference) < MIN_ENGINE_AGREEMENT


def failure_reason(
    task: Task, ours: Answers, graph: Answers | None, reference: Answers, score: float, reference_score: float,
    share: float,
) -> str:  # fmt: skip
    """Why an engine fails, "" if it does not: logits not finite, not the graph's result, or a score below the gate.

    `ours` are the engine's answers, `graph` ONNX Runtime's on the same graph, None where the engine is not `doubtful`,
    `reference` PyTorch's. Where quantization costs much accuracy, two correct engines also differ, because they round
    differently. So an engine is at fault only where it also agrees less with the reference than its graph does.
    """
    words, finite = task.words, task.finite_fraction(ours)
    if finite < 1:
        return f"NaN or Inf in the logits of {100 * (1 - finite):.1f} % of the images"
    if graph is not None:
        same = task.agreement(ours, graph)
        lost = task.agreement(graph, reference) - task.agreement(ours, reference)
        if same < MIN_ENGINE_AGREEMENT and lost > 100 - MIN_ENGINE_AGREEMENT:
            return (
                f"the engine does not compute its graph: it agrees with ONNX Runtime on the same graph on {same:.1f} % "
                f"of the {words.things} (at least {MIN_ENGINE_AGREEMENT:.0f} %), so this is the engine, not the precision"
            )
    if score < share * reference_score:
        return f"{words.score_name} {score:.2f} is under {100 * share:.4g} % of FP32's {reference_score:.2f}"
    return ""
