"""Stage 9: the report, from what evaluation and benchmark measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib.preprocess import Preprocess
from pipeline.artifact import Artifact
from pipeline.checkpoint import read_checkpoint
from pipeline.recipe import Recipe
from pipeline.report import build_report, write_report
from pipeline.report_features import features_section, read_features
from pipeline.report_search import read_search, search_section


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `report.json`, `report.md`, `report.html` and `tradeoff.png` into `folder`."""
    evaluation = json.loads(inputs["evaluate"].path("evaluation.json").read_text(encoding="utf-8"))
    benchmark = json.loads(inputs["benchmark"].path("benchmark.json").read_text(encoding="utf-8"))
    checkpoint = read_checkpoint(inputs["train"].path("checkpoint.pt"))
    report = build_report(
        run=folder.parent.name, model=recipe.model.label, evaluation=evaluation, benchmark=benchmark,
        preprocess_sha256=Preprocess.from_dict(checkpoint.preprocess).sha256(),
        min_relative_top1=recipe.gate.min_relative_top1,
    )  # fmt: skip
    sections = [
        features_section(read_features(inputs["visualize"]) if "visualize" in inputs else None),
        search_section(read_search(inputs["search"]) if "search" in inputs else None),
    ]
    write_report(report, folder, evaluation["reference"], benchmark["mode"], sections)
    return {"recommended": report["recommended"]}
