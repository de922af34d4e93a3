"""The report's section on what each engine changes: the test, the classes, the confusions, and the images themselves."""

from collections.abc import Mapping
from typing import Any

from pipeline.console.figures import number, percent
from pipeline.report.page.render import Section, section
from pipeline.report.values.format import class_count, drop
from pipeline.tasks.significance import ALPHA
from pipeline.tasks.words import CLASSIFICATION

_HEADS = (
    "Engine", "Gained", "Lost", "Δ top-1 pp [95 %]", "McNemar p", "More than chance?", "Smallest drop seen, pp",
)  # fmt: skip
_CLASS_HEADS = ("Class", "Images", "Top‑1 before", "after", "Δ pp", "p")


def accuracy_section(report: dict[str, Any], pictures: Mapping[str, bytes] | None) -> Section | None:
    """The test of each engine, and what it changes; None where no variant was compared.

    `pictures` are PNGs by the names that the flips have: only flips with a picture are shown.
    """
    compared = [variant for variant in report["variants"] if "comparison" in variant]
    if not compared:
        return None
    thumbnails = pictures or {}
    changed = [v for v in compared if v["comparison"]["gained"] or v["comparison"]["lost"]]
    return section(
        "What the engines change", "accuracy.html", reference=report["reference"]["name"], heads=_HEADS,
        class_heads=_CLASS_HEADS, alpha=ALPHA, classes=class_count(report), enough=_enough(report), pictures=thumbnails,
        rows=[_row(variant, thumbnails) for variant in changed],
        same=[variant["name"] for variant in compared if variant not in changed],
    )  # fmt: skip


def _enough(report: dict[str, Any]) -> dict[str, Any]:
    """Whether there were enough images, in words: `enough`, `verdict` and `text`."""
    found = report["enough_images"]
    allowed, smallest, images = found["gate_drop_pp"], found["smallest_drop_pp"], found["images"]
    sees = "No drop could be shown" if smallest is None else f"A true drop of {number(smallest)} points is found"
    gate = f"the gate of {percent(report['gate'][CLASSIFICATION.gate])} allows {number(allowed)} points"
    if found["enough"]:
        text = f" {sees} with 80 % chance on these {images:,}; {gate}."
        return {"enough": True, "verdict": "Enough images.", "text": text}
    needed = "" if found["images_needed"] is None else f" About {found['images_needed']:,} would be."
    text = f" to be sure of the gate. {sees} with 80 % chance on these {images:,}, but {gate}.{needed}"
    return {"enough": False, "verdict": "Not enough images", "text": text}


def _row(variant: dict[str, Any], thumbnails: Mapping[str, bytes]) -> dict[str, Any]:
    """An engine as the template has it; `found` is its comparison as report.json has it."""
    found = variant["comparison"]
    widest = max(abs(row["top1"] - row["reference_top1"]) for row in found["per_class"]) or 1.0
    return {
        "name": variant["name"], "found": found, "drop": drop(variant, CLASSIFICATION), "p": p_text(found["mcnemar_p"]),
        "verdict": _verdict(found["gained"], found["lost"], found["mcnemar_p"]),
        "flips": [flip for flip in found["flips"] if flip["image"] in thumbnails],
        "classes": [_class(row, widest) for row in found["per_class"]],
    }  # fmt: skip


def _class(row: dict[str, Any], widest: float) -> dict[str, Any]:
    """A class that changed, with a bar to the left or right of no change; `size` is its share of the `widest`."""
    delta = row["top1"] - row["reference_top1"]
    return row | {"delta": delta, "size": abs(delta) / widest, "p_text": p_text(row["p"])}


def p_text(p: float) -> str:
    """A p-value: three decimals, or the power of ten it is below."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001" if p >= 1e-6 else "< 10⁻⁶"


def _verdict(gained: int, lost: int, p: float) -> str:
    if p > ALPHA:
        return "no"
    return "yes, worse" if lost > gained else "yes, better"
