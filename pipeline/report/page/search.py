"""The report's section on the search for precision `auto`: what was tried, what it gave, and why it was taken or not."""

import json
from typing import Any

from pipeline.artifact import Artifact
from pipeline.console.figures import MISSING, number, quantity
from pipeline.report.page.render import Section, section
from pipeline.report.values.format import headed
from pipeline.tasks.words import Words


def read_search(artifact: Artifact) -> dict[str, Any]:
    """The search stage's search.json."""
    summary: dict[str, Any] = json.loads(artifact.path("search.json").read_text(encoding="utf-8"))
    return summary


def search_section(search: dict[str, Any] | None, words: Words) -> Section | None:
    """Every mix that was tried, and the one that was taken; None where no search was run."""
    if search is None:
        return None
    rows = [_row(row, row["nodes"] == search["chosen"]["nodes"], words) for row in search["path"]]
    score = f"{headed(words.score_name)} %"
    heads = ("Tried", "INT8 layers", "Products", score, "Drop pp", "Agreement %", "p50 ms", "× FP32's time", "Verdict")
    return section(
        "The search for auto", "search.html", heads=heads, rows=rows, conclusion=search["conclusion"],
        how=_how(search, words), groups=_groups(search),
    )  # fmt: skip


def _how(search: dict[str, Any], words: Words) -> str:
    goal = "the fastest mix within the limits"
    if search["budget_ms"] is not None:
        goal = f"the most accurate mix under {search['budget_ms']:g} ms"
    return (
        f"Looked for {goal} on {search['backend']} with {search['threads']} threads at batch 1, in "
        f"{len(search['path'])} engines. {search['images']:,} training images decided, none of them a calibration or an "
        f"evaluation image: at most {search['max_drop_pp']:g} points of {words.score_name} lost, and the gate "
        f"({search[words.gate]:g} of FP32's {words.score_name}) held with 95 %. The network was trained on them, so "
        f"{words.score_name} is higher than on the evaluation images. Times are over those of FP32 in turns with it."
    )


def _row(row: dict[str, Any], chosen: bool, words: Words) -> dict[str, Any]:
    """A mix: `label`, `cells`, `verdict`, `chosen`."""
    products = MISSING if row["engine_int8"] is None else str(row["engine_int8"])
    ratio = MISSING if row["ratio"] is None else f"{row['ratio']:.3f} ± {row['noise']:.3f}"
    cells = [
        str(len(row["nodes"])), f"{row['products']} ({products} in the engine)", number(row[words.score]),
        number(row["drop_pp"]), number(row["agreement"], 1), quantity(row["latency_ms"]), ratio,
    ]  # fmt: skip
    verdict = f"refused: {row['refused']}" if row["refused"] else "within the limits"
    return {
        "label": row["label"], "cells": cells, "chosen": chosen, "verdict": f"chosen, {verdict}" if chosen else verdict,
    }  # fmt: skip


def _groups(search: dict[str, Any]) -> str:
    """Which groups of layers are in INT8."""
    parts = [f"{group['group']} {group['int8']}/{group['layers']}" for group in search["groups"] if group["int8"]]
    return ", ".join(parts) or "none"
