"""The report's section on the calibration set: what the audit found, and how even its classes are."""

import json
from html import escape
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import percent
from pipeline.report.page.frame import table_head

_CLASSES = 40  # with more, only the fewest and the most images are told


def read_audit(calibrate: Artifact) -> dict[str, Any] | None:
    """The calibrate stage's audit.json; None in runs from before there was one."""
    if "audit.json" not in calibrate.outputs:
        return None
    audit: dict[str, Any] = json.loads(calibrate.path("audit.json").read_text(encoding="utf-8"))
    return audit


def calibration_section(audit: dict[str, Any] | None) -> str:
    """HTML of the section; "" without an audit."""
    if audit is None:
        return ""
    findings = "".join(f"<li>{escape(text)}</li>" for text in audit["warnings"])
    verdict = (
        f'<div class="callout warn"><b>Warnings</b><ul>{findings}</ul></div>'
        if findings
        else '<p class="callout good"><b>Accepted</b>, without warnings.</p>'
    )
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _facts(audit))
    return f"""<h2>Calibration set</h2>
{verdict}
<dl class="machine">{items}</dl>
{_histogram(audit["per_class"])}
"""


def _facts(audit: dict[str, Any]) -> list[tuple[str, str]]:
    seen, colour = audit["evaluation"], audit["colour_order"]
    order = colour["network"] or colour["statistics"]
    return [
        ("Images", f"{audit['images']:,}, fingerprint {audit['fingerprint'][:12]}"),
        ("Duplicates", _count(audit["duplicates"]["count"])),
        (
            "Also evaluated",
            f"{_count(seen['same'])} the same, {_count(seen['near'])} nearly, of {seen['pixels_compared']:,} evaluation images",
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


def _histogram(per_class: dict[str, int] | None) -> str:
    """Images of each class as bars, or the fewest and the most where there are many classes."""
    if per_class is None:
        return "<p>The images have no labels, so how even the classes are is not known.</p>"
    if len(per_class) > _CLASSES:
        low, high = (f(per_class, key=lambda name: per_class[name]) for f in (min, max))
        text = f"{len(per_class)} classes: {per_class[low]} images of {low} to {per_class[high]} of {high}."
        return f"<p>{escape(text)}</p>"
    most = max(per_class.values()) or 1
    rows = "".join(
        f'<tr><th scope=row>{escape(name)}</th><td class=bar>{count}<i class="delta flat" '
        f'style="--size:{count / most:.3f}" aria-hidden="true"></i></td></tr>'
        for name, count in per_class.items()
    )
    return f'<table class="plain narrow">{table_head(("Class", "Images"))}<tbody>{rows}</tbody></table>'
