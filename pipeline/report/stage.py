"""The report stage: the report, from what the other stages measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from calib.preprocess import Preprocess
from pipeline.artifact import Artifact
from pipeline.data.batches import evaluation_split
from pipeline.recipe import Recipe
from pipeline.report.page.calibration import calibration_section, read_audit
from pipeline.report.page.features import features_section, read_features
from pipeline.report.page.layers import layers_section, read_decisions
from pipeline.report.page.render import Section
from pipeline.report.page.search import read_search, search_section
from pipeline.report.page.sensitivity import read_sensitivity, sensitivity_section
from pipeline.report.pictures import PICTURES
from pipeline.report.values.details import add_details, compare_answers, read_answers
from pipeline.report.write import build_report, write_report
from pipeline.tasks.task import task_named
from pipeline.tasks.words import words_of
from pipeline.training.checkpoint import read_checkpoint


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `report.json`, `report.md`, `report.html` and `tradeoff.png` into `folder`."""
    evaluation = json.loads(inputs["evaluate"].path("evaluation.json").read_text(encoding="utf-8"))
    benchmark = json.loads(inputs["benchmark"].path("benchmark.json").read_text(encoding="utf-8"))
    checkpoint = read_checkpoint(inputs["train"].path("checkpoint.pt"))
    spec = Preprocess.from_dict(checkpoint.preprocess)
    split = evaluation_split(recipe, tuple(checkpoint.classes))
    task = task_named(recipe.data.task)
    report = build_report(
        run=folder.parent.name, model=recipe.model.label, evaluation=evaluation, benchmark=benchmark,
        preprocess_sha256=spec.sha256(), gate_share=recipe.gate.share(task.words),
    )  # fmt: skip
    answers = read_answers(inputs["export"], inputs["evaluate"], task)
    comparisons = compare_answers(answers, split, spec, task)
    report = add_details(report, evaluation["reference"], comparisons, benchmark)
    changed = PICTURES[task.words.task](report, answers, split, spec)
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    write_report(
        report, folder, evaluation["reference"], benchmark["mode"], _sections(report, inputs), changed, text
    )  # fmt: skip
    return {"recommended": report["recommended"]}


def _sections(report: dict[str, Any], inputs: Mapping[str, Artifact]) -> list[Section | None]:
    """What the stages around the engines have to say; None for a stage that this recipe did not run."""
    return [
        layers_section(report["variants"], read_decisions(inputs["quantize"])),
        features_section(read_features(inputs["visualize"]) if "visualize" in inputs else None),
        sensitivity_section(read_sensitivity(inputs["sensitivity"]) if "sensitivity" in inputs else None),
        search_section(read_search(inputs["search"]) if "search" in inputs else None, words_of(report)),
        calibration_section(read_audit(inputs["calibrate"])),
    ]
