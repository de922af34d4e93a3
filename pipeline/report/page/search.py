"""The report's section on the search for precision `auto`: what was tried, what it gave, and why it was taken or not."""

import json
from html import escape
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import MISSING, number, one_line, quantity
from pipeline.report.page.frame import table_head

_HEADS = ("Tried", "INT8 layers", "Products", "Top-1 %", "Drop pp", "Agreement %", "p50 ms", "× FP32's time", "Verdict")


def read_search(artifact: Artifact) -> dict[str, Any]:
    """The search stage's search.json."""
    summary: dict[str, Any] = json.loads(artifact.path("search.json").read_text(encoding="utf-8"))
    return summary


def search_section(search: dict[str, Any] | None) -> str:
    """HTML of the section; "" where no search was run."""
    if search is None:
        return ""
    rows = "".join(_row(row, row["nodes"] == search["chosen"]["nodes"]) for row in search["path"])
    return f"""<h2>The search for auto</h2>
<p>{escape(search["conclusion"])}</p>
<div class="scroll"><table class="channels">{table_head(_HEADS, _HEADS[-1:])}<tbody>{rows}</tbody></table></div>
<p class="note">{escape(_how(search))}</p>
{_groups(search)}
"""


def _how(search: dict[str, Any]) -> str:
    goal = "the fastest mix within the limits"
    if search["budget_ms"] is not None:
        goal = f"the most accurate mix under {search['budget_ms']:g} ms"
    return (
        f"Looked for {goal} on {search['backend']} with {search['threads']} threads at batch 1, in "
        f"{len(search['path'])} engines. {search['images']:,} training images decided, none of them a calibration or an "
        f"evaluation image: at most {search['max_drop_pp']:g} points of top-1 lost, and the gate "
        f"({search['min_relative_top1']:g} of FP32's top-1) held with 95 %. The network was trained on them, so top-1 is "
        "higher than on the evaluation images. Times are over those of FP32 in turns with it."
    )


def _row(row: dict[str, Any], chosen: bool) -> str:
    products = MISSING if row["engine_int8"] is None else str(row["engine_int8"])
    ratio = MISSING if row["ratio"] is None else f"{row['ratio']:.3f} ± {row['noise']:.3f}"
    texts = [
        str(len(row["nodes"])), f"{row['products']} ({products} in the engine)", number(row["top1"]),
        number(row["drop_pp"]), number(row["agreement"], 1), quantity(row["latency_ms"]), ratio,
    ]  # fmt: skip
    verdict = f"refused: {row['refused']}" if row["refused"] else "within the limits"
    verdict = f"chosen, {verdict}" if chosen else verdict
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    mark = ' class="recommended"' if chosen else ""
    return (
        f"<tr{mark}><th scope=row>{escape(one_line(row['label']))}</th>{cells}"
        f"<td class=text>{escape(one_line(verdict))}</td></tr>"
    )


def _groups(search: dict[str, Any]) -> str:
    """Which groups of layers are in INT8."""
    parts = [f"{group['group']} {group['int8']}/{group['layers']}" for group in search["groups"] if group["int8"]]
    text = ", ".join(parts) or "none"
    return f'<p class="note">Groups with layers in INT8: {escape(text)}.</p>'
