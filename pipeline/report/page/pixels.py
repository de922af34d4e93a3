"""The report's section on what each engine changes in class maps: how sure that is, the classes, the confusions, and strips
of pictures."""

from dataclasses import dataclass
from typing import Any

from pipeline.console.figures import number, percent
from pipeline.report.page.render import Section, section
from pipeline.report.values.format import drop
from pipeline.tasks.words import SEGMENTATION

_HEADS = (
    "Engine", "Pixels gained", "Pixels lost", "Δ mIoU pp [95 %]", "More than chance?", "Smallest drop seen, pp",
)  # fmt: skip
_CLASS_HEADS = ("Class", "Pixels", "IoU before", "after", "Δ pp")


@dataclass(frozen=True)
class Strip:
    """An image: PNGs of the photograph, the mask, the reference's map, the engine's, and where these two differ."""

    image: str
    pictures: tuple[bytes, bytes, bytes, bytes, bytes]


@dataclass(frozen=True)
class Strips:
    """The images of one engine, and the classes in them: (name, colour as CSS has it); `hatched` where pixels have none."""

    engine: str
    strips: tuple[Strip, ...]
    legend: tuple[tuple[str, str], ...]
    hatched: bool


def pixels_section(report: dict[str, Any], strips: Strips | None) -> Section | None:
    """The interval of each engine, and what it changes; None where no variant was compared. Without `strips`, no pictures."""
    compared = [variant for variant in report["variants"] if "comparison" in variant]
    if not compared:
        return None
    changed = [variant for variant in compared if variant["comparison"]["images"]]
    return section(
        "What the engines change", "pixels.html", reference=report["reference"]["name"], heads=_HEADS,
        class_heads=_CLASS_HEADS, enough=_enough(report), rows=[_row(variant) for variant in changed],
        same=[variant["name"] for variant in compared if variant not in changed], shown=_shown(compared, strips),
        engines=[variant["name"] for variant in compared], classes=_classes(compared),
    )  # fmt: skip


def _classes(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each class: its pixels in the masks, the reference's IoU and each engine's."""
    tables = [variant["comparison"]["per_class"] for variant in compared]
    return [rows[0] | {"found": [row["iou"] for row in rows]} for rows in zip(*tables, strict=True)]


def _enough(report: dict[str, Any]) -> dict[str, Any]:
    """Whether there were enough images, in words: `enough`, `verdict` and `text`."""
    found = report["enough_images"]
    allowed, images = number(found["gate_drop_pp"]), found["images"]
    sees = f"On these {images:,} the difference from FP32 is known to ±\u00a0{number(found['smallest_drop_pp'])} points"
    gate = f"the gate of {percent(report['gate'][SEGMENTATION.gate])} allows {allowed} points"
    if found["enough"]:
        return {"enough": True, "verdict": "Enough images.", "text": f" {sees}; {gate}."}
    needed = "" if found["images_needed"] is None else f" About {found['images_needed']:,} would be."
    text = f" to be sure of the gate. {sees}, but {gate}.{needed}"
    return {"enough": False, "verdict": "Not enough images", "text": text}


def _row(variant: dict[str, Any]) -> dict[str, Any]:
    """An engine as the template has it; `found` is its comparison as report.json has it."""
    found = variant["comparison"]
    deltas = [row["iou"] - row["reference_iou"] for row in found["per_class"]]
    widest = max(map(abs, deltas)) or 1.0
    return {
        "name": variant["name"], "found": found, "drop": drop(variant, SEGMENTATION), "verdict": _verdict(*variant["ci95_pp"]),
        "classes": [
            row | {"delta": delta, "size": abs(delta) / widest}
            for row, delta in zip(found["per_class"], deltas, strict=True)
        ],
        "worst": min(zip(deltas, (row["label"] for row in found["per_class"]), strict=True)),
        "moved": [row | {"change": _change(row["engine"] - row["reference"])} for row in found["confusion_moved"]],
    }  # fmt: skip


def _change(pixels: int) -> str:
    return f"{pixels:+,}".replace("-", "−")


def _verdict(low: float, high: float) -> str:
    """Whether the interval leaves out no difference."""
    return "yes, worse" if high < 0 else "yes, better" if low > 0 else "no"


def _shown(compared: list[dict[str, Any]], strips: Strips | None) -> dict[str, Any] | None:
    """The strips with what their comparison says of each image; None where there are none."""
    if strips is None:
        return None
    (found,) = [variant["comparison"]["images"] for variant in compared if variant["name"] == strips.engine]
    figures = {row["image"]: row for row in found}
    return {
        "engine": strips.engine, "legend": strips.legend, "hatched": strips.hatched,
        "strips": [figures[strip.image] | {"pictures": strip.pictures} for strip in strips.strips],
    }  # fmt: skip
