"""The report's section on sensitivity: how much quantizing each group of layers alone changes the output."""

import json
from html import escape
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import MISSING, number
from pipeline.report.page.frame import table_head

_SHOWN = 16  # groups


def read_sensitivity(artifact: Artifact) -> dict[str, Any]:
    """The sensitivity stage's sensitivity.json."""
    study: dict[str, Any] = json.loads(artifact.path("sensitivity.json").read_text(encoding="utf-8"))
    return study


def sensitivity_section(study: dict[str, Any] | None) -> str:
    """HTML of the section; "" where it was not measured."""
    if study is None or not study["groups"]:
        return ""
    groups = sorted(study["groups"], key=lambda row: -float(row["kl"]))
    largest = float(groups[0]["kl"]) or 1.0
    rows = "".join(_row(group, largest) for group in groups[:_SHOWN])
    left = len(groups) - _SHOWN
    more = f" {left} more groups, less sensitive, are in sensitivity.json." if left > 0 else ""
    heads = table_head(("Group", "Layers", "KL divergence", "SNR dB", "Agreement %"))
    return f"""<h2>Sensitivity</h2>
<div class="scroll"><table class="plain">{heads}<tbody>{rows}</tbody></table></div>
<p class="note">Each group of layers alone in INT8, everything else in FP32, on {study["images"]} calibration images: how far \
the output moves (KL divergence of the class probabilities), most sensitive first.{more}</p>
"""


def _row(group: dict[str, Any], largest: float) -> str:
    bar = f'<i class="delta down" style="--size:{float(group["kl"]) / largest:.3f}" aria-hidden="true"></i>'
    snr = MISSING if group["snr_db"] is None else number(group["snr_db"], 1)
    return (
        f"<tr><th scope=row>{escape(group['group'])}</th><td>{len(group['nodes'])}</td>"
        f"<td class=bar>{group['kl']:.2e}{bar}</td><td>{snr}</td><td>{number(group['agreement'], 1)}</td></tr>"
    )
