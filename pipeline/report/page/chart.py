"""The interactive chart: what the page's script draws, and the picture in its place where no script runs."""

from collections.abc import Sequence
from typing import Any

from pipeline.console.figures import number, percent
from pipeline.report.page.render import Section, section
from pipeline.report.values.compared import data_of
from pipeline.report.values.format import headed, latency
from pipeline.tasks.words import Words, words_of

SLOTS = {
    "onnxruntime": 0,
    "openvino": 1,
    "tensorrt": 2,
    "tensorrt_rtx": 3,
    "executorch": 4,
    "inductor": 6,
    "pytorch": 7,
}  # colour and shape, the same in every report
OTHER = 5  # of a backend that this release does not know; its shape is also that of points below the chart
_PERCENTILES = ("p50", "p90", "p99")


def chart_data(
    reports: Sequence[dict[str, Any]],
    labels: Sequence[str],
    levels: Sequence[tuple[str, str, float]],
    noun: str = "run",
) -> dict[str, Any]:
    """What the script draws: the variants of one report by backend, or of several by report, named by `labels`.

    The reports are of one task, and each is of a `noun`. `levels` are lines across: (kind, name, score), `kind` "reference"
    or "gate".
    """
    one, words = len(reports) == 1, words_of(reports[0])
    points = [
        chart_point(report, variant, variant["backend"] if one else label)
        for report, label in zip(reports, labels, strict=True)
        for variant in report["variants"]
    ]
    names = list(dict.fromkeys(point["series"] for point in points))
    slots = [SLOTS.get(name, OTHER) for name in names] if one else range(len(names))
    return {
        "seriesTitle": "Backend" if one else headed(noun), "several": not one,
        "series": [{"name": name, "slot": slot} for name, slot in zip(names, slots, strict=True)],
        "batches": sorted({size for point in points for size in point["latency"]}, key=int),
        "points": points, "levels": [{"kind": kind, "name": name, words.score: score} for kind, name, score in levels],
    }  # fmt: skip


def chart_levels(report: dict[str, Any], reference: dict[str, Any]) -> list[tuple[str, str, float]]:
    """The reference's score and the gate."""
    words = words_of(report)
    share, score = report["gate"][words.gate], reference[words.score]
    return [
        ("reference", reference["name"], score),
        ("gate", f"gate, {percent(share)} of it", share * score),
    ]


def chart_point(report: dict[str, Any], variant: dict[str, Any], series: str) -> dict[str, Any]:
    """One variant as the script needs it, unrounded; `latency` by batch size and percentile, milliseconds."""
    words = words_of(report)
    keys = ("name", "backend", "precision", "status", words.score, words.delta, "ci95_pp", "agreement")
    chosen = (report["recommended"] or {}).get("name") == variant["name"]
    return {key: variant[key] for key in keys} | {
        "series": series, "dataset": data_of(report),
        "recommended": chosen, "reason": variant["reason"], "latency": _latencies(variant),
        "rates": variant["images_per_s"] or {},
    }  # fmt: skip


def _latencies(variant: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """A batch's median is its size over its rate, which is how the rate was made; more where percentiles were kept."""
    kept, found = variant.get("percentiles_ms") or {}, {}
    for size, rate in (variant["images_per_s"] or {}).items():
        if rate is not None:
            found[size] = {"p50": 1e3 * int(size) / rate} | {
                f"p{share}": kept[size][share] if size in kept else None for share in (90, 99)
            }
    if variant["latency_ms"]:
        found["1"] = {name: variant["latency_ms"][name] for name in _PERCENTILES}
    return found


def chart_section(picture: bytes, text: str) -> Section:
    """The script fills it; without a script it holds `picture` (PNG), which `text` describes."""
    return section("Accuracy against latency", "chart.html", picture=picture, text=text)


def picture_text(variants: Sequence[dict[str, Any]], words: Words) -> str:
    """What the picture says, for those who do not see it."""
    front = [v for v in variants if v["pareto"]]
    if not front:
        return "Accuracy against latency: no engine that passes was measured."
    parts = (f"{v['name']} ({number(v[words.score])} %, {latency(v)} ms)" for v in front)
    return f"Accuracy against latency; on the Pareto front: {', '.join(parts)}."
