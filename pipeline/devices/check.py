"""Whether what came back from a device is what it says: hashes, schema, and the accuracy gate computed anew from its logits.

The host has its own reference and its own statistics, so a device cannot claim an accuracy that its logits do not give. What
only a device can measure, latency and energy, is taken as it is.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calib.errors import InputError
from export.engines.spec import EngineSpec
from pipeline.artifact import hash_of
from pipeline.device.contents import Bundle
from pipeline.device.state import BENCHMARK_JSON, EVALUATION_JSON, ROWS
from pipeline.measure.evaluate_stage import evaluate_variant
from pipeline.report.values.rows import join_report
from pipeline.report.values.schema import check_report
from pipeline.tasks.task import Answers
from pipeline.tasks.words import task_key

REPORT = "report/report.json"
_CLOSE = 1e-6  # numbers of the same logits, added up in another order


def check_results(name: str, folder: Path, bundle: Bundle, again: str) -> dict[str, Any]:
    """The report of the device `name`, whose fetched results are in `folder`. InputError where they contradict each other, the
    bundle, or what the host computes of the logits."""
    try:
        return _checked(folder, bundle)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        said = (
            f"{type(error).__name__}: {error}"
            if isinstance(error, (KeyError, TypeError, AttributeError, IndexError))
            else error
        )
        raise refused(name, str(said), again) from error


def refused(name: str, got: str, again: str) -> InputError:
    """The error for results that are not kept."""
    return InputError(
        f"what came back from {name} is refused", got=got, allowed="results as the bundle wrote them there, none changed since",
        next_step=f"find out who can write there; the earlier results here are kept; measure anew: {again}",
    )  # fmt: skip


def _checked(folder: Path, bundle: Bundle) -> dict[str, Any]:
    report, evaluation = _json(folder, REPORT), _json(folder, EVALUATION_JSON)
    benchmark, built = _json(folder, BENCHMARK_JSON), _json(folder, ROWS)
    check_report(report)
    if built["bundle"] != bundle.key:
        raise ValueError("the engines were built from another bundle")
    rows, measured = built["rows"], hash_of([bundle.key, built["rows"]])
    for what, found in (("evaluation", evaluation), ("benchmark", benchmark)):
        if found["engines"] != measured:
            raise ValueError(f"the {what} is of other engines than those that were built")
    _check_rows(rows, bundle)
    computed = evaluation | {"variants": _variants(folder, bundle, rows, evaluation), "dataset": _dataset(bundle)}
    computed |= task_key(bundle.task.words)
    computed["reference"] = {"name": bundle.recipe.reference} | _reference_scores(bundle)
    if other := difference(computed, evaluation, "evaluation"):
        raise ValueError(f"its evaluation is not that of its logits: {other}")
    joined = join_report(
        run=bundle.recipe.run, model=bundle.recipe.model, evaluation=computed, benchmark=benchmark,
        preprocess_sha256=bundle.spec.sha256(), gate_share=bundle.recipe.gate_share,
    )  # fmt: skip
    if other := difference(joined, report, "report"):
        raise ValueError(f"its report is not that of its logits and measurements: {other}")
    return report


def _json(folder: Path, name: str) -> dict[str, Any]:
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{name} holds no mapping")
    return values


def _dataset(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.recipe.dataset, "classes": len(bundle.classes), "eval_images": bundle.recipe.eval_images,
        "calibration_images": bundle.recipe.calibration_images,
    }  # fmt: skip


def _reference_scores(bundle: Bundle) -> dict[str, float]:
    reference, labels, _ = bundle.reference()
    return bundle.task.scores(reference, labels)


def _check_rows(rows: list[dict[str, Any]], bundle: Bundle) -> None:
    """ValueError for an engine that the bundle does not have."""
    for row in rows:
        specs = bundle.engine_specs(row["backend"], row["target"])
        if not any(_same(spec, row) for spec in specs):
            raise ValueError(f"the bundle has no engine {row['name']}")


def _same(spec: EngineSpec, row: Mapping[str, Any]) -> bool:
    return (spec.name, spec.precision, spec.graph) == (row["name"], row["precision"], row["graph"])


def _variants(
    folder: Path, bundle: Bundle, rows: list[dict[str, Any]], evaluation: dict[str, Any]
) -> list[dict[str, Any]]:  # fmt: skip
    """The variants as the host judges them; those that did not run are as the device says."""
    task, recipe = bundle.task, bundle.recipe
    reference, labels, graphs = bundle.reference()
    answers = graphs | _answers(folder / f"{task.words.kept}.npz", reference)
    score = task.scores(reference, labels)[task.words.score]
    claimed = {row["name"]: row for row in evaluation["variants"]}
    variants = []
    for row in rows:
        said = claimed[row["name"]]
        if row["name"] in answers or row["status"] != "built":
            variants.append(evaluate_variant(task, row, answers, {}, reference, score, labels, recipe.gate_share))
        elif said["status"] in ("pass", "fail") or said[task.words.score] is not None:
            raise ValueError(f"there are no logits of {row['name']}")
        else:
            variants.append(said)
    return variants


def _answers(path: Path, reference: Answers) -> dict[str, Answers]:
    with np.load(path, allow_pickle=False) as stored:
        answers = {name: stored[name] for name in stored.files}
    for name, values in answers.items():
        if values.shape != reference.shape or values.dtype != reference.dtype or name.startswith("graph:"):
            raise ValueError(
                f"{path.name} has {name} of {values.dtype} {values.shape}, not {reference.dtype} {reference.shape}"
            )
    return answers


def difference(ours: Any, theirs: Any, place: str) -> str:
    """The first place where two JSON values differ by more than rounding; "" where none does."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return f"{place}: {', '.join(sorted(map(str, ours.keys() ^ theirs.keys())))}"
        return next(filter(None, (difference(ours[key], theirs[key], f"{place}.{key}") for key in ours)), "")
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        if len(ours) != len(theirs):
            return f"{place}: {len(theirs)} entries, not {len(ours)}"
        pairs = enumerate(zip(ours, theirs, strict=True))
        return next(filter(None, (difference(a, b, f"{place}[{index}]") for index, (a, b) in pairs)), "")
    number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (ours, theirs))
    same = math.isclose(ours, theirs, rel_tol=_CLOSE, abs_tol=_CLOSE) if number else ours == theirs
    return "" if same else f"{place} is {theirs}, computed here {ours}"
