"""The report's section on feature maps: the visualize stage's pictures, and what each block's channels do to INT8."""

from dataclasses import dataclass
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import MISSING, number
from pipeline.report.page.render import Section, section
from pipeline.visualize.summary import graph_text, read_summary, setters_text, snr_text

_HEADS = ("Block", "Output", "Dead", "Exploding", "SNR", "Levels", "Scale", "Most of the error")


@dataclass(frozen=True)
class FeatureMaps:
    """What the visualize stage left: channels.json and its pictures (PNG), None where there was nothing to draw."""

    summary: dict[str, Any]
    picture: bytes | None
    attention: bytes | None


def read_features(artifact: Artifact) -> FeatureMaps:
    """The visualize stage's files."""
    pictures = {
        name: artifact.path(name).read_bytes() if name in artifact.outputs else None
        for name in ("features.png", "attention.png")
    }
    summary = read_summary(artifact.path("channels.json"))
    return FeatureMaps(summary, pictures["features.png"], pictures["attention.png"])


def features_section(features: FeatureMaps | None) -> Section | None:
    """The pictures, and a row for each block; None where there is nothing to show."""
    if features is None or features.picture is None:
        return None
    summary = features.summary
    alone = f"{summary['engine']} did not run here: {summary['reason']}." if summary["reason"] else ""
    return section(
        "Feature maps", "features.html", picture=features.picture, picture_text=_picture_text(summary), heads=_HEADS,
        rows=[_row(block) for block in summary["blocks"]], alone=alone, images=summary["images"],
        engine=summary["engine"], attention=features.attention,
    )  # fmt: skip


def _picture_text(summary: dict[str, Any]) -> str:
    """What the picture says, for those who do not see it."""
    marks = ", ".join(
        f"{block['name']} {len(block['dead'])} dead and {len(block['exploding'])} exploding"
        for block in summary["blocks"]
        if block["dead"] or block["exploding"]
    )
    beside = "FP32 alone" if summary["reason"] else f"FP32 beside {summary['engine']}"
    return f"Feature maps of {len(summary['blocks'])} blocks, {beside}. Marked channels: {marks or 'none'}."


def _row(block: dict[str, Any]) -> dict[str, Any]:
    """A block: its `name`, `cells` that are numbers, and `texts`."""
    cells = [
        " × ".join(map(str, block["shape"])), str(len(block["dead"])), str(len(block["exploding"])),
        f"{snr_text(block)} {graph_text(block)}".strip(), number(block["levels"], 1),
    ]  # fmt: skip
    return {"name": block["name"], "cells": cells, "texts": (setters_text(block), _worst(block))}


def _worst(block: dict[str, Any]) -> str:
    """`channel 5: 42 %, 17: 3 %`: the three channels with most of the error."""
    worst = [entry for entry in block["worst_error"][:3] if entry["share"] > 0]
    return ", ".join(f"{entry['channel']}: {100 * entry['share']:.2g} %" for entry in worst) or MISSING
