"""The trade-off picture: the score against latency, the Pareto front, the gate, and what fails it."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

from pipeline.console.figures import counted, percent
from pipeline.report.tradeoff_labels import Box, Point, place_labels
from pipeline.report.values.compared import data_of
from pipeline.tasks.statistics import pareto_front
from pipeline.tasks.words import Words, words_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart; red is kept for failures.
_COLOURS = {
    "onnxruntime": "#0072B2", "openvino": "#009E73", "executorch": "#56B4E9", "tensorrt": "#E69F00", "tensorrt_rtx": "#AA4499",
    "inductor": "#8C6D1F", "pytorch": "#000000",
}  # fmt: skip
_OTHER, _FAILED, _GATE, _REFERENCE, _FRONT = "#555555", "#C1121F", "#C1121F", "#333333", "#B4BDC8"
_RUN_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#AA4499", "#56B4E9", "#8C6D1F", "#555555", "#000000")
_NAMED_RUNS = 3  # with more, labels would not fit, and colours distinguish the runs
_DPI = 160
_MARKER = 9.0  # points


def draw_tradeoff(report: dict[str, Any], reference: dict[str, Any]) -> bytes:
    """PNG bytes (1280 × 800 pixels) of every variant that has both an accuracy and a latency.

    A failed variant far below the gate is drawn at the lower edge with an arrow and its accuracy, so that it does not
    squeeze the others together.
    """
    title = f"{report['model']} on {report['dataset']['name']}, {counted(report['dataset']['eval_images'], 'image')}"
    words = words_of(report)
    levels = (reference["name"], reference[words.score], report["gate"][words.gate])
    return _draw(report["variants"], title, levels, {}, words)


def draw_comparison(reports: Sequence[dict[str, Any]], labels: Sequence[str], title: str) -> bytes:
    """PNG bytes (1280 × 800 pixels): the variants of several reports of one task in one picture, a colour for each.

    They have one Pareto front, or none where they were evaluated on different images.
    """
    words = words_of(reports[0])
    colours = dict(zip(labels, cycle(_RUN_COLOURS), strict=False))
    rows = [
        variant | {"name": f"{label}: {variant['name']}" if len(labels) <= _NAMED_RUNS else variant["name"],
                   "colour": colours[label]}
        for report, label in zip(reports, labels, strict=True)
        for variant in report["variants"]
        if variant["latency_ms"] and variant[words.score] is not None
    ]  # fmt: skip
    one_set = len({data_of(report) for report in reports}) == 1
    passing = [row for row in rows if row["status"] == "pass" and one_set]
    front = {id(passing[i]) for i in pareto_front([(row["latency_ms"]["p50"], row[words.score]) for row in passing])}
    return _draw([row | {"pareto": id(row) in front} for row in rows], title, None, colours, words)


def draw_named_front(variants: Sequence[dict[str, Any]], title: str, words: Words) -> bytes:
    """PNG bytes (1280 × 800 pixels): engines of many runs of one task, coloured by backend, of which `pareto` says which are
    on their common front. These alone are named."""
    return _draw(variants, title, None, {}, words, front_alone=True)


def _draw(
    variants: Sequence[dict[str, Any]], title: str, levels: tuple[str, float, float] | None, runs: Mapping[str, str],
    words: Words, *, front_alone: bool = False,
) -> bytes:  # fmt: skip
    """The picture; `levels` are the reference's name and score and the gate's share of it, `runs` colours to explain.

    With `front_alone` the labels of other engines than the front's are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [v | {"score": v[words.score]} for v in variants if v["latency_ms"] and v[words.score] is not None]
    lines = [levels[1], levels[1] * levels[2]] if levels else []
    figure = Figure(figsize=(8, 5), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.17, 0.735 if levels else 0.87, 0.70))
    low, high = _accuracy_window(shown, lines)
    axes.set_ylim(low, high)
    _latency_axis(axes, [v["latency_ms"]["p50"] for v in shown])
    _label_axes(axes, title, words.score_name, len(shown), len(variants))
    if levels:
        _draw_levels(figure, axes, {"name": levels[0], "score": levels[1]}, lines[1], percent(levels[2]))
    front = _draw_front(axes, shown)
    points = [(v["latency_ms"]["p50"], max(v["score"], low + 0.02 * (high - low))) for v in shown]
    for variant, point in zip(shown, points, strict=True):
        _draw_marker(axes, variant, point, below=variant["score"] < low)
    _draw_legend(figure, axes, runs)
    across = [((axes.get_xlim()[0], height), (axes.get_xlim()[1], height)) for height in lines]
    named = [(v, point) for v, point in zip(shown, points, strict=True) if v["pareto"] or not front_alone]
    labels = [(_label(v, below=v["score"] < low), _colour(v)) for v, _ in named]
    _draw_labels(figure, axes, [point for _, point in named], labels, across + front)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _colour(variant: dict[str, Any]) -> str:
    own: str = variant.get("colour") or _COLOURS.get(variant["backend"], _OTHER)
    return own if variant["status"] == "pass" else _FAILED


def _label(variant: dict[str, Any], below: bool) -> str:
    return f"{variant['name']} ({variant['score']:.1f} %)" if below else str(variant["name"])


def _accuracy_window(shown: list[dict[str, Any]], lines: list[float]) -> Point:
    """Lower and upper end of the accuracy axis: what passes, the lines, and failures no further than that again."""
    core = [v["score"] for v in shown if v["status"] == "pass"] + lines
    core = core or [v["score"] for v in shown] or [0.0, 100.0]
    span = max(max(core) - min(core), 0.5)
    near = [v["score"] for v in shown if v["score"] >= min(core) - 1.5 * span]
    low, high = min(core + near), max(core + near)
    margin = 0.18 * max(high - low, 0.5)
    return low - margin, high + margin


def _latency_axis(axes: "Axes", latencies: list[float]) -> None:
    """Linear from 0, or logarithmic when the slowest takes more than six times as long as the fastest."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not latencies:
        axes.set_xlim(0, 1)
        axes.set_xticks([])
    elif max(latencies) <= 6 * min(latencies):
        axes.set_xlim(0, 1.15 * max(latencies))
    else:
        axes.set_xscale("log")
        axes.set_xlim(0.7 * min(latencies), 1.6 * max(latencies))
        wide = max(latencies) > 500 * min(latencies)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _label_axes(axes: "Axes", title: str, score: str, shown: int, count: int) -> None:
    axes.set_xlabel("latency p50 at batch 1, ms (less is better)", fontsize=10)
    axes.set_ylabel(f"{score}, % (more is better)", fontsize=10)
    axes.set_title(title, fontsize=12, loc="left", pad=22, parse_math=False)
    axes.grid(True, color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not shown:
        axes.text(0.5, 0.5, "no engine was measured on this machine", transform=axes.transAxes, ha="center")
    elif shown < count:
        note = f"{shown} engines measured, {count - shown} not measured on this machine"
        axes.text(0, 1.03, note, transform=axes.transAxes, fontsize=8.5, color="#555555")


def _draw_levels(figure: "Figure", axes: "Axes", reference: dict[str, Any], gate: float, share: str) -> None:
    """The reference's accuracy and the gate as lines across, each named in the right margin."""
    score = reference["score"]
    axes.axhline(score, color=_REFERENCE, linewidth=1.2)
    axes.axhline(gate, color=_GATE, linewidth=1.2, linestyle=(0, (5, 3)))
    low, high = axes.get_ylim()
    apart = 0.095 * (high - low)  # two lines of text
    middle, half = (score + gate) / 2, max(score - gate, apart) / 2
    names = [
        (middle + half, f"{reference['name']}\n{score:.2f} %", _REFERENCE),
        (middle - half, f"gate, {share} of it\n{gate:.2f} %", _GATE),
    ]
    for height, text, colour in names:
        axes.annotate(
            text, (1.0, height), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=colour, parse_math=False,
        )  # fmt: skip


def _draw_front(axes: "Axes", shown: list[dict[str, Any]]) -> list[tuple[Point, Point]]:
    """The best accuracy within each latency: a step up at each variant of the front, level from the last one on.

    Returns its straight pieces.
    """
    front = sorted((v["latency_ms"]["p50"], v["score"]) for v in shown if v["pareto"])
    if not front:
        return []
    corners = [front[0]]
    for latency, score in front[1:]:
        corners += [(latency, corners[-1][1]), (latency, score)]
    corners.append((axes.get_xlim()[1], front[-1][1]))
    axes.plot(*zip(*corners, strict=True), color=_FRONT, linewidth=2.4, zorder=2)
    return list(pairwise(corners))


def _draw_marker(axes: "Axes", variant: dict[str, Any], point: Point, below: bool) -> None:
    passes, colour = variant["status"] == "pass", _colour(variant)
    axes.plot(
        *point, marker="v" if below else "o", markersize=_MARKER, linestyle="none", zorder=3, clip_on=False,
        markerfacecolor=colour if passes else "white", markeredgecolor="white" if passes else colour,
        markeredgewidth=1.0 if passes else 1.8,
    )  # fmt: skip


def _draw_legend(figure: "Figure", axes: "Axes", runs: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    def key(label: str, marker: str, face: str, edge: str) -> Line2D:
        return Line2D([], [], label=label, marker=marker, linestyle="none", markersize=7,
                      markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1.5)  # fmt: skip

    named = [key(name, "o", colour, colour) for name, colour in runs.items()]
    keys = [
        *(named or [key("passes (colour: backend)", "o", _OTHER, _OTHER)]),
        key("fails the gate", "o", "white", _FAILED),
        key("fails, below this picture", "v", "white", _FAILED),
        Line2D([], [], label="Pareto front", color=_FRONT, linewidth=2.4),
    ]
    figure.legend(
        handles=keys,
        loc="lower center",
        ncols=4,
        fontsize=8.5 if len(keys) <= 4 else 7,
        frameon=False,
        handletextpad=0.5,
    )


def _draw_labels(
    figure: "Figure",
    axes: "Axes",
    points: list[Point],
    labels: list[tuple[str, str]],
    lines: list[tuple[Point, Point]],
) -> None:
    """Write each label (text, colour) beside its marker, clear of the others and, if that is near, of the lines.

    A thin line leads to the marker where the label is not close.
    """
    from matplotlib.patheffects import withStroke

    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # every Agg canvas has one
    scale = _DPI / 72
    halo = withStroke(linewidth=2.5, foreground="white")
    texts = [
        axes.annotate(label, point, xytext=(0, 0), textcoords="offset points", ha="center", va="center", fontsize=9,
                      color=colour, parse_math=False, zorder=4, path_effects=[halo])
        for (label, colour), point in zip(labels, points, strict=True)
    ]  # fmt: skip
    extents = [text.get_window_extent(renderer) for text in texts]
    anchors = [(float(x), float(y)) for x, y in (axes.transData.transform(point) for point in points)]
    frame = axes.get_window_extent(renderer)
    bounds = (frame.x0, frame.y0, frame.x1, frame.y1 + 4 * scale)
    strokes = [_stroke(axes, line, scale) for line in lines]
    sizes = [(extent.width, extent.height) for extent in extents]
    centres = place_labels(anchors, sizes, bounds, strokes, radius=_MARKER / 2 * scale, gap=2 * scale)
    for text, (_, colour), anchor, extent, centre in zip(texts, labels, anchors, extents, centres, strict=True):
        text.set_position(((centre[0] - anchor[0]) / scale, (centre[1] - anchor[1]) / scale))
        near = (
            min(max(anchor[0], centre[0] - extent.width / 2), centre[0] + extent.width / 2),
            min(max(anchor[1], centre[1] - extent.height / 2), centre[1] + extent.height / 2),
        )
        if math.dist(near, anchor) > 9 * scale:
            ends = [axes.transData.inverted().transform(end) for end in (anchor, near)]
            axes.plot(*zip(*ends, strict=True), color=colour, linewidth=0.7, alpha=0.7, zorder=2.5)


def _stroke(axes: "Axes", line: tuple[Point, Point], scale: float) -> Box:
    """Pixels that a level or upright line covers."""
    (x0, y0), (x1, y1) = (axes.transData.transform(end) for end in line)
    return min(x0, x1) - scale, min(y0, y1) - scale, max(x0, x1) + scale, max(y0, y1) + scale
