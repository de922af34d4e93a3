"""The report's section on sensitivity: how much quantizing each group of layers alone changes the output."""

import json
from typing import Any

from pipeline.artifact import Artifact
from pipeline.report.page.render import Section, section

_SHOWN = 16  # groups


def read_sensitivity(artifact: Artifact) -> dict[str, Any]:
    """The sensitivity stage's sensitivity.json."""
    study: dict[str, Any] = json.loads(artifact.path("sensitivity.json").read_text(encoding="utf-8"))
    return study


def sensitivity_section(study: dict[str, Any] | None) -> Section | None:
    """The groups by how much they move the output; None where it was not measured."""
    if study is None or not study["groups"]:
        return None
    groups = sorted(study["groups"], key=lambda row: -float(row["kl"]))
    return section(
        "Sensitivity", "sensitivity.html", groups=groups[:_SHOWN], largest=float(groups[0]["kl"]) or 1.0,
        left=len(groups) - _SHOWN, images=study["images"],
    )  # fmt: skip
