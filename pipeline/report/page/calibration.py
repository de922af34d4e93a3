"""The report's section on the calibration set: what the audit found, and how even its classes are."""

import json
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import counted, percent
from pipeline.report.page.render import Section, section

_CLASSES = 40  # with more, only the classes with the fewest and the most images are listed


def read_audit(calibrate: Artifact) -> dict[str, Any]:
    """The calibrate stage's audit.json."""
    audit: dict[str, Any] = json.loads(calibrate.path("audit.json").read_text(encoding="utf-8"))
    return audit


def calibration_section(audit: dict[str, Any]) -> Section:
    """What the audit found, and the images of each class: as bars, or in a sentence where there are many classes."""
    per_class = audit["per_class"]
    return section(
        "Calibration set", "calibration.html", warnings=audit["warnings"], facts=_facts(audit), per_class=per_class,
        summary=_summary(per_class or {}), most=max((per_class or {}).values(), default=0) or 1,
    )  # fmt: skip


def _facts(audit: dict[str, Any]) -> list[tuple[str, str]]:
    seen, colour = audit["evaluation"], audit["colour_order"]
    compared = counted(seen["pixels_compared"], "evaluation image")
    order = colour["network"] or colour["statistics"]
    return [
        ("Images", f"{audit['images']:,}, fingerprint {audit['fingerprint'][:12]}"),
        ("Duplicates", _count(audit["duplicates"]["count"])),
        (
            "Also evaluated",
            f"{_count(seen['same'])} the same, {_count(seen['near'])} nearly, of {compared}",
        ),
        ("Mean, found and in the spec", f"{_three(audit['mean'])}; {_three(audit['spec_mean'])}"),
        ("Deviation, found and in the spec", f"{_three(audit['std'])}; {_three(audit['spec_std'])}"),
        ("Grey images", percent(round(audit["grey_share"], 3))),
        ("Colour order", f"{order['verdict']}: {order['text']}"),
    ]


def _count(count: int) -> str:
    return f"{count:,}" if count else "none"


def _three(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _summary(per_class: dict[str, int]) -> str:
    """The fewest and the most images of a class, where there are too many classes for a table; else ""."""
    if len(per_class) <= _CLASSES:
        return ""
    low, high = (f(per_class, key=lambda name: per_class[name]) for f in (min, max))
    return f"{len(per_class)} classes: {counted(per_class[low], 'image')} of {low} to {per_class[high]:,} of {high}."
