"""The report's section on feature maps: the visualize stage's pictures, and what each block's channels do to INT8."""

import base64
from dataclasses import dataclass
from html import escape
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import MISSING, number, one_line
from pipeline.report.page.frame import table_head
from pipeline.visualize.summary import graph_text, read_summary, setters_text, snr_text


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


def features_section(features: FeatureMaps | None) -> str:
    """HTML of the section; "" where there is nothing to show."""
    if features is None or features.picture is None:
        return ""
    summary = features.summary
    alone = f"{summary['engine']} did not run here: {summary['reason']}." if summary["reason"] else ""
    attention = ""
    if features.attention is not None:
        attention = _image(features.attention, "Where each visual token looks, over the image.")
    return f"""<h2>Feature maps</h2>
{_image(features.picture, _picture_text(summary))}
{_table(summary)}
<p class="note">{escape(alone)} Over {summary["images"]} calibration images. Levels: those of 127 that the median \
channel spans where one INT8 scale serves the whole tensor; the channels that set or share this scale are over half \
of the tensor's largest value. SNR and error: {escape(summary["engine"])} against FP32.</p>
{attention}
"""


def _image(picture: bytes, text: str) -> str:
    data = base64.b64encode(picture).decode("ascii")
    return f'<div class="picture wide"><img alt="{escape(text)}" src="data:image/png;base64,{data}"></div>'


def _picture_text(summary: dict[str, Any]) -> str:
    """What the picture says, for those who do not see it."""
    marks = ", ".join(
        f"{block['name']} {len(block['dead'])} dead and {len(block['exploding'])} exploding"
        for block in summary["blocks"]
        if block["dead"] or block["exploding"]
    )
    beside = "FP32 alone" if summary["reason"] else f"FP32 beside {summary['engine']}"
    return f"Feature maps of {len(summary['blocks'])} blocks, {beside}. Marked channels: {marks or 'none'}."


def _table(summary: dict[str, Any]) -> str:
    heads = ("Block", "Output", "Dead", "Exploding", "SNR", "Levels", "Scale", "Most of the error")
    rows = "".join(_row(block) for block in summary["blocks"])
    return (
        f'<div class="scroll"><table class="channels">{table_head(heads, heads[6:])}'
        f'<tbody class="blocks">{rows}</tbody></table></div>'
    )


def _row(block: dict[str, Any]) -> str:
    texts = [
        " × ".join(map(str, block["shape"])), str(len(block["dead"])), str(len(block["exploding"])),
        f"{snr_text(block)} {graph_text(block)}".strip(), MISSING if block["levels"] is None else number(block["levels"], 1),
    ]  # fmt: skip
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    wide = "".join(f"<td class=text>{escape(text)}</td>" for text in (setters_text(block), _worst(block)))
    return f"<tr><th scope=row>{escape(one_line(block['name']))}</th>{cells}{wide}</tr>"


def _worst(block: dict[str, Any]) -> str:
    """`channel 5: 42 %, 17: 3 %`: the three channels with most of the error."""
    worst = [entry for entry in block["worst_error"][:3] if entry["share"] > 0]
    return ", ".join(f"{entry['channel']}: {100 * entry['share']:.2g} %" for entry in worst) or MISSING
