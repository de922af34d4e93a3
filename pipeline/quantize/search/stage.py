"""The search stage, for precision `auto`: find the fastest mix of INT8 and FP32 layers that holds the accuracy gate, or the
most accurate one within a latency budget."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import onnx

from calib.calibration import load_calibration_set
from calib.errors import InputError
from calib.precision.policy import NO_RULES, Decision, Layer, PolicyName, Rules, choose, complete
from calib.precision.search import Outcome, Trial, Unit, search_budget, search_fastest
from calib.precision.search_limits import Limits
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.engines.engine import backend_version, unavailable
from export.graph.layers import read_layers
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import find_ranges
from pipeline.artifact import Artifact, hash_of
from pipeline.console.figures import counted, number, quantity
from pipeline.console.progress import track
from pipeline.data.batches import evaluation_split, training_split
from pipeline.parts.quantize import QuantizePart, SearchPart
from pipeline.quantize.graphs import quantize_options
from pipeline.quantize.search.images import SearchSplit, draw_search_split
from pipeline.quantize.search.path import PathFile, Row, heading, line
from pipeline.quantize.search.trials import Material, Trials, candidates, infer_answers, noise_floor
from pipeline.recipe import Recipe, keys_of
from pipeline.tasks.task import Answers, Task, task_named
from pipeline.tasks.words import Words
from pipeline.training.checkpoint import read_checkpoint

READS = (  # parts of the recipe; of `build` only what `narrow` keeps
    "data", "quantize.method", "quantize.percentile", "quantize.weight_bits", "quantize.include", "quantize.exclude",
    "search", "gate", "build",
    "benchmark.threads", "benchmark.warmup", "benchmark.warmup_ms", "benchmark.rounds", "benchmark.calls",
    "benchmark.seconds",
)  # fmt: skip
MUCH_NOISE = 0.05  # of a ratio: most groups of layers save less than this
_INDENT = " " * 11


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `search.json`, which names the layers of precision `auto`, and `path.jsonl`, a row for every mix tried.

    An interrupted search resumes in the same `folder`. InputError where the backend does not run here, where there are too
    few images to decide on, and where no mix is within `search.budget_ms`.
    """
    _check_backend(recipe.search.backend)
    material = _gather(recipe, inputs)
    units = _units(material, inputs["sensitivity"])
    path = PathFile(folder, _settings(recipe, inputs, material), material.task.words)
    _say_start(recipe, material, units, path.kept)
    with Trials(recipe, material, folder / "engines") as trials:
        outcome, rows = _search(recipe, units, material.best, trials, path)
    chosen = next(row for row in rows if frozenset(row.nodes) == outcome.chosen.units)
    summary = _summary(recipe, material, units, outcome, chosen, rows)
    (folder / "search.json").write_text(json.dumps(summary, indent=1, allow_nan=False), encoding="utf-8")
    print(f"{_INDENT}{summary['conclusion']}")
    print(f"{_INDENT}next: t2t-edge quantize, with auto in quantize.precisions; why each layer: quantize --explain")
    keys = ("backend", "images", "candidates", "conclusion", "complete")
    return {key: summary[key] for key in keys} | {
        "int8_layers": len(chosen.nodes), "ratio": chosen.ratio, "drop_pp": chosen.drop_pp, "trials": len(rows),
    }  # fmt: skip


def narrow(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce `build` in a recipe's `parts` to how the first engine of the search's backend is built."""
    built = [part for part in parts["build"] if part["backend"] == parts["search"]["backend"]][:1]
    return {**parts, "build": [keys_of(part, ("backend", "batch_sizes", "options")) for part in built]}


def _check_backend(wanted: str) -> None:
    """InputError, with the backends that work, where this machine cannot build and run engines of the `wanted` one."""
    backends = get_args(SearchPart.model_fields["backend"].annotation)
    reasons = unavailable(backends, "run")
    if wanted in reasons:
        raise InputError(
            "the search needs a backend that runs here, because it measures", got=f"{wanted}: {reasons[wanted]}",
            allowed=", ".join(backend for backend in backends if backend not in reasons) or "none is installed",
            next_step="set search.backend in the recipe to one of these, or install it (t2t-edge doctor)",
        )  # fmt: skip


def _gather(recipe: Recipe, inputs: Mapping[str, Artifact]) -> Material:
    """The FP32 graph, its candidate layers with their ranges, the search split, and FP32's answers on it."""
    task = task_named(recipe.data.task)
    checkpoint = read_checkpoint(inputs["train"].path("checkpoint.pt"))
    spec, classes = Preprocess.from_dict(checkpoint.preprocess), tuple(checkpoint.classes)
    calibration = load_calibration_set(inputs["calibrate"].path("calibration.npz"), spec)
    split = draw_search_split(
        task, training_split(recipe.data, classes), evaluation_split(recipe, classes), calibration, spec,
        recipe.search.images, recipe.search.seed,
    )  # fmt: skip
    source = inputs["export"].path("fp32.onnx")
    limits = Limits(recipe.gate.share(task.words), recipe.search.max_drop_pp)
    fp32 = _infer_fp32(task, recipe, source, split)
    _check_images(task, fp32, split, limits)
    dialect = DIALECTS[recipe.search.backend]
    exported = onnx.load(source)
    proto = dialect.form(exported)
    layers, others = read_layers(proto), read_layers(exported)
    decisions = candidate_decisions(layers, recipe.quantize, dialect.rules, others)
    options = quantize_options(recipe.quantize)
    found = find_ranges(proto, complete(decisions, dialect.rules), calibration, options, track, dialect)
    best = _choose_more(layers, "best", recipe.quantize, decisions, dialect.rules, others)
    names = frozenset(decision.layer.name for decision in best if decision.int8)
    return Material(task, source, proto, spec, classes, decisions, names, found, split, fp32, limits)


def candidate_decisions(
    layers: list[Layer], part: QuantizePart, rules: Rules = NO_RULES, others: Sequence[Layer] = ()
) -> list[Decision]:
    """For each layer, what the policies weights, +attention and +residual quantize, with the recipe's include and exclude.

    What `rules` ask besides for a layer that is INT8 is no candidate: it comes and goes with the layer.
    """
    weights = choose(layers, "weights", part.include, part.exclude, rules, others)
    more: tuple[PolicyName, ...] = ("+attention", "+residual")
    return candidates(weights, *(_choose_more(layers, policy, part, weights, rules, others) for policy in more))


def _choose_more(
    layers: list[Layer], policy: PolicyName, part: QuantizePart, weights: list[Decision], rules: Rules,
    others: Sequence[Layer],
) -> list[Decision]:  # fmt: skip
    """The decisions of `policy`; where the network has no layers of its kind, `weights`, which add no candidates.

    In a recipe such a policy is an InputError, and so is a wrong include or exclude: that was raised for `weights` before.
    """
    try:
        return choose(layers, policy, part.include, part.exclude, rules, others)
    except InputError:
        return weights


def _infer_fp32(task: Task, recipe: Recipe, source: Path, split: SearchSplit) -> Answers:
    with onnxruntime_backend.load(source, recipe.benchmark.threads) as runner:
        return infer_answers(task, runner, split.images, recipe.evaluate.batch_size)


def _check_images(task: Task, fp32: Answers, split: SearchSplit, limits: Limits) -> None:
    """InputError where there are too few images to show that the gate holds, even for a mix as good as FP32."""
    words, needed = task.words, task.images_needed(task.drop(fp32, fp32, split.labels).fp32_score, limits)
    if needed is None or needed > len(split.labels):
        raise InputError(
            "the search split is too small to be sure of the gate", got=f"search.images: {len(split.labels)}",
            allowed=f"at least {needed}: the gate ({limits.min_relative:g} of FP32's {words.score_name}) must hold with 95 %"
            if needed else f"gate.{words.gate} below 1 and a network that is right on some training images",
            next_step="raise search.images in the recipe" if needed else f"lower gate.{words.gate} in the recipe",
        )  # fmt: skip


def _units(material: Material, sensitivity: Artifact) -> list[Unit]:
    """The candidate layers with their group and KL divergence from the sensitivity stage.

    A layer that it did not measure counts as the most sensitive of all: it goes back to FP32 first.
    """
    rows = json.loads(sensitivity.path("sensitivity.json").read_text(encoding="utf-8"))["layers"]
    known = {row["node"]: row for row in rows}
    units = []
    kept = {decision.layer.name for decision in material.found.decisions if decision.int8}
    for decision in material.candidates:
        layer = decision.layer
        if decision.int8 and layer.name in kept:
            row = known.get(layer.name, {"group": f"{layer.module} (not measured)", "kl": math.inf})
            kind = {"": "weights", "residual": "residual"}.get(layer.role, "attention")
            units.append(Unit(layer.name, row["group"], kind, float(row["kl"])))
    return units


def _settings(recipe: Recipe, inputs: Mapping[str, Artifact], material: Material) -> str:
    """Hash of everything that a row depends on: of the images their content, not their place."""
    labels = material.task.labels_hash(material.split.labels)
    files = {"export": "fp32.onnx", "calibrate": "calibration.npz", "sensitivity": "sensitivity.json"}
    read = narrow(keys_of(recipe.model_dump(mode="json"), READS))
    return hash_of({
        "recipe": {name: part for name, part in read.items() if name != "data"},
        "inputs": [inputs[stage].outputs[name] for stage, name in files.items()],
        "images": material.split.fingerprint, "backend": backend_version(recipe.search.backend),
        **({"labels": labels} if labels else {}),
    })  # fmt: skip


def _search(
    recipe: Recipe, units: list[Unit], best: frozenset[str], trials: Trials, path: PathFile
) -> tuple[Outcome, list[Row]]:
    """Run the algorithm. The rows are in the order in which it asked for them, whether tried now or read from `path`."""
    rows: list[Row] = []

    def evaluate(names: frozenset[str], label: str) -> Trial:
        row = path.find(names)
        if row is None:
            row = trials.row(names, label) if names else trials.fp32_row()
            path.add(row)
        if not names:
            trials.know_noise(row)
        rows.append(row)
        print(f"{_INDENT}{line(row)}", flush=True)
        return row.trial()

    if recipe.search.budget_ms is None:
        return search_fastest(units, evaluate, best=best), rows
    return search_budget(units, evaluate, recipe.search.budget_ms, best=best), rows


def _say_start(recipe: Recipe, material: Material, units: list[Unit], kept: int) -> None:
    goal = "the fastest mix within the limits"
    if recipe.search.budget_ms is not None:
        goal = f"the most accurate mix under {recipe.search.budget_ms:g} ms"
    limits, words = material.limits, material.task.words
    print(
        f"{_INDENT}{goal} on {recipe.search.backend}: {counted(len(units), 'layer')} in "
        f"{counted(len({unit.group for unit in units}), 'group')} may be INT8. On "
        f"{counted(len(material.split.labels), 'training image')} {words.score_name} may drop by {limits.max_drop_pp:g} "
        f"points, and the gate ({limits.min_relative:g} of FP32's) must hold with 95 % confidence"
    )
    if kept:
        print(f"{_INDENT}reused from an interrupted search: {counted(kept, 'trial')}")
    print(f"{_INDENT}{heading(words)}")


def _summary(
    recipe: Recipe, material: Material, units: list[Unit], outcome: Outcome, chosen: Row, rows: list[Row]
) -> dict[str, Any]:
    part, limits, words = recipe.search, material.limits, material.task.words
    decisions = [decision for decision in material.candidates if decision.layer.name in outcome.chosen.units]
    if not outcome.met:
        raise InputError(
            "no mix of INT8 and FP32 layers is within search.budget_ms", allowed="at least what the fastest takes",
            got=f"{part.budget_ms:g} ms; the fastest of {len(rows)} takes {quantity(chosen.latency_ms)} ms",
            next_step="raise search.budget_ms in the recipe, or take a smaller model",
        )  # fmt: skip
    return {
        "schema": 1, "backend": part.backend, "threads": recipe.benchmark.threads, "images": len(material.split.labels),
        "budget_ms": part.budget_ms, "max_drop_pp": limits.max_drop_pp, words.gate: limits.min_relative,
        "fp32": rows[0].to_dict(words), "chosen": chosen.to_dict(words), "complete": outcome.complete,
        "candidates": len(units), "groups": _groups(units, outcome.chosen.units),
        "conclusion": _conclusion(recipe, words, units, outcome, chosen, rows),
        "int8": [
            {"node": of.layer.name, "inputs": list(of.inputs), "output": of.output} for of in decisions
        ],
        "path": [row.to_dict(words) for row in rows],
    }  # fmt: skip


def _groups(units: list[Unit], chosen: frozenset[str]) -> list[dict[str, Any]]:
    """How many layers of each group are in INT8."""
    names: dict[str, list[str]] = {}
    for unit in units:
        names.setdefault(unit.group, []).append(unit.name)
    return [{"group": key, "layers": len(of), "int8": len(chosen & set(of))} for key, of in names.items()]


def _conclusion(
    recipe: Recipe, words: Words, units: list[Unit], outcome: Outcome, chosen: Row, rows: list[Row]
) -> str:  # fmt: skip
    """The result in one to three sentences."""
    backend, fp32 = recipe.search.backend, rows[0]
    noise = noise_floor(fp32)
    end = "" if noise <= MUCH_NOISE else (
        f" Timing is noisy on this machine: FP32 measured twice differs by {100 * noise:.0f} %, so smaller gains cannot be "
        "seen; run it again on an idle machine or with more benchmark.rounds."
    )  # fmt: skip
    end += (
        "" if outcome.complete else f" The search ended after {counted(len(rows), 'trial')}; there may be a better mix."
    )
    if not chosen.nodes:
        if recipe.search.budget_ms is not None:
            return f"FP32 takes {quantity(fp32.latency_ms)} ms on {backend}, which is within the budget: auto is FP32."
        fastest = min((row for row in rows if row.ratio is not None), key=lambda row: row.trial().ratio or math.inf)
        why = "no mix with INT8 layers that holds the limits is measurably faster"
        if fastest.nodes and fastest.refused:
            why += f"; the fastest, {fastest.label}, was refused: {fastest.refused}"
        return f"FP32 is the fastest on {backend} here ({why}), so auto is the FP32 graph.{end}"
    assert chosen.ratio is not None
    warning = f" It does not hold the limits: {chosen.refused}." if chosen.refused else ""
    return (
        f"auto has {len(chosen.nodes)} of {len(units)} layers in INT8: {1 / chosen.ratio:.2f} × the speed of FP32 on "
        f"{backend} ({quantity(chosen.latency_ms)} ms), {number(chosen.drop_pp)} points less {words.score_name} than FP32 "
        f"and the same answer on {number(chosen.agreement, 1)} % of {words.things_of('the search images')}.{warning}{end}"
    )
