"""The sensitivity picture: each layer's KL divergence in the order of the graph; colour and shape show its group."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pipeline.console.figures import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
Point = tuple[float, float]

# Okabe and Ito's colours, which colour-blind readers can tell apart, with three shapes: styles for 24 groups.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#8C6D1F")
_SHAPES = ("o", "s", "^")
_OTHER = ("#AAB2BB", "o")
_SOFT, _RULE, _BAND = "#5A6472", "#DFE3E8", "#F3F5F7"
_DPI, _WIDTH, _LEAST_HEIGHT = 130, 12.0, 6.2  # lengths are in inches, here and below
_LEFT, _PLOT, _BOTTOM, _TOP = 0.85, 6.75, 1.15, 0.75
_KEY, _KL, _LINE = 8.0, 11.8, 0.19  # in the list on the right: where names begin, where numbers end, height of a line
_LABELLED = 8  # layers that are numbered and named
_MOST_GROUPS = 32  # groups in the list on the right
_SPAN = 1e-6  # of the largest KL: smaller values are drawn at the lower edge
_MARKER = 6.0  # points
_RANK_OFFSETS = (8.5, -8.5, 17.5, -17.5)  # points from the marker; the first that touches nothing is used


@dataclass(frozen=True)
class Section:
    """Layers from `first` to `last` (from 0) that belong to the same part of the network."""

    name: str
    first: int
    last: int


def draw_sensitivity(study: Row, model: str) -> bytes:
    """PNG bytes (1560 pixels wide) of `sensitivity.json`'s content; the most sensitive layers are numbered and named."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers: list[Row] = study["layers"]
    groups = sorted(study["groups"], key=lambda row: -float(row["kl"]))
    top = sorted(range(len(layers)), key=lambda index: -float(layers[index]["kl"]))[:_LABELLED]
    lines = min(len(groups), _MOST_GROUPS + 1) + len(top) + 5
    height = max(_LEAST_HEIGHT, _TOP + lines * _LINE + 0.2)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((_LEFT / _WIDTH, _BOTTOM / height, _PLOT / _WIDTH, (height - _BOTTOM - _TOP) / height))
    styles = _styles(groups)
    floor = _scale(axes, [float(row["kl"]) for row in layers])
    _draw_sections(axes, sections(layers))
    points = [(float(index), max(float(row["kl"]), floor)) for index, row in enumerate(layers)]
    for point, row in zip(points, layers, strict=True):
        colour, shape = styles.get(row["group"], _OTHER)
        axes.plot(
            *point, marker=shape, color=colour, markersize=_MARKER, linestyle="none", zorder=3,
            markeredgecolor="white", markeredgewidth=0.6, clip_on=False,
        )  # fmt: skip
    _draw_ranks(axes, points, top)
    _draw_titles(axes, study, model, hidden=sum(row["kl"] < floor for row in layers))
    _draw_key(figure, height, groups, styles, [layers[index] for index in top])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def sections(layers: Sequence[Row]) -> list[Section]:
    """Runs of layers in the same part of the network: `blocks.3`, `tokens_to_token.attention1`, `head`."""
    found = []
    for name, run in groupby(range(len(layers)), key=lambda index: _part(layers[index])):
        indices = list(run)
        found.append(Section(name, indices[0], indices[-1]))
    return found


def _part(row: Row) -> str:
    """The module's path up to the first number among its first three words; without one, its first two words."""
    words = str(row["module"] or row["node"]).split(".")
    number = next((index for index, word in enumerate(words[:3]) if word.isdigit()), 1)
    return ".".join(words[: number + 1])


def _styles(groups: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Colour and shape by group, the most sensitive first."""
    pairs = [(colour, shape) for shape in _SHAPES for colour in _COLOURS]
    return {row["group"]: pair for row, pair in zip(groups, pairs, strict=False)}


def _scale(axes: "Axes", values: Sequence[float]) -> float:
    """Make the vertical axis logarithmic; returns its lower edge."""
    axes.set_xlim(-1, max(len(values), 1))
    positive = [value for value in values if value > 0]
    if not positive:
        axes.set_ylim(0, 1)
        return 0.0
    highest = max(positive)
    lowest = max(min(positive), highest * _SPAN)
    axes.set_yscale("log")
    floor = lowest / 2
    axes.set_ylim(floor, highest * 3)
    axes.grid(axis="y", color=_RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    return floor


def _draw_sections(axes: "Axes", parts: Sequence[Section]) -> None:
    """A grey band behind every second part of the network, and as many of the parts' names as there is room for."""
    per_inch = (axes.get_xlim()[1] - axes.get_xlim()[0]) / _PLOT
    ticks: list[tuple[float, str]] = []
    for number, part in enumerate(parts):
        if number % 2:
            axes.axvspan(part.first - 0.5, part.last + 0.5, color=_BAND, zorder=0, linewidth=0)
        middle = (part.first + part.last) / 2
        if not ticks or middle - ticks[-1][0] >= 0.15 * per_inch:
            ticks.append((middle, shorten(part.name, 22)))
    axes.set_xticks([middle for middle, _ in ticks])
    axes.set_xticklabels([name for _, name in ticks], rotation=40, ha="right", rotation_mode="anchor", fontsize=7.5,
                         parse_math=False)  # fmt: skip
    axes.tick_params(axis="x", length=2, pad=2)


def _draw_ranks(axes: "Axes", points: Sequence[Point], top: Sequence[int]) -> None:
    """The rank of each of the most sensitive layers above its marker, or below it where it touches less there."""
    from matplotlib.patheffects import withStroke

    scale = _DPI / 72
    markers = [_pixels(axes, point) for point in points]
    taken: list[Point] = []
    for rank, index in enumerate(top, start=1):
        x, y = markers[index]
        others = taken + markers[:index] + markers[index + 1 :]
        offset = min(_RANK_OFFSETS, key=partial(_crowd, (x, y), others, scale))
        taken.append((x, y + offset * scale))
        axes.annotate(
            str(rank), points[index], xytext=(0, offset), textcoords="offset points", ha="center", va="center",
            fontsize=8.5, weight="bold", zorder=4, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _crowd(marker: Point, others: Sequence[Point], scale: float, offset: float) -> int:
    """How many of `others` (in pixels) a rank `offset` points above its marker would touch."""
    x, y = marker[0], marker[1] + offset * scale
    return sum(abs(x - other[0]) < 6.5 * scale and abs(y - other[1]) < 8 * scale for other in others)


def _pixels(axes: "Axes", point: Point) -> Point:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _draw_titles(axes: "Axes", study: Row, model: str, hidden: int) -> None:
    axes.set_ylabel("KL divergence from FP32's softmax, nats (less is better)", fontsize=9.5)
    axes.tick_params(axis="y", labelsize=8.5)
    axes.set_title(
        f"{model}: one layer in INT8 at a time", fontsize=12, loc="left", pad=22, weight="bold", parse_math=False
    )
    note = (
        f"{counted(len(study['layers']), 'layer')} in the order of the graph, {counted(study['images'], 'image')}, method "
        f"{study['method']}, {study['weight_bits']}-bit weights"
        + (f"; {hidden} at the lower edge have less" if hidden else "")
    )
    axes.annotate(note, (0, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points", fontsize=8,
                  color=_SOFT)  # fmt: skip
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_key(
    figure: "Figure", height: float, groups: Sequence[Row], styles: Mapping[str, tuple[str, str]], top: Sequence[Row]
) -> None:
    """The list on the right: the numbered layers, then the groups by falling KL, with their markers."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, 0)
    axes.axis("off")
    axes.patch.set_visible(False)
    line = 0.36
    line = _heading(axes, line, "Most sensitive layers", "KL")
    for rank, (row, name) in enumerate(zip(top, _layer_names(top), strict=True), start=1):
        axes.text(_KEY + 0.07, line, str(rank), fontsize=8.5, weight="bold", ha="center", va="center")
        line = _entry(axes, line, shorten(name, 46), row["kl"])
    line = _heading(axes, line + _LINE, "Groups, each quantized alone", "KL")
    for row in groups[:_MOST_GROUPS]:
        colour, shape = styles.get(row["group"], _OTHER)
        axes.plot(_KEY + 0.07, line, marker=shape, color=colour, markersize=_MARKER, markeredgecolor="white",
                  markeredgewidth=0.6)  # fmt: skip
        count = f" ×{len(row['nodes'])}" if len(row["nodes"]) > 1 else ""
        line = _entry(axes, line, shorten(row["group"], 44 - len(count)) + count, row["kl"])
    if len(groups) > _MOST_GROUPS:
        axes.text(
            _KEY + 0.22, line, f"and {len(groups) - _MOST_GROUPS} less sensitive", fontsize=8, va="center",
            color=_SOFT,
        )  # fmt: skip


def _heading(axes: "Axes", line: float, left: str, right: str) -> float:
    axes.text(_KEY, line, left, fontsize=9, weight="bold", va="center")
    axes.text(_KL, line, right, fontsize=9, weight="bold", va="center", ha="right")
    axes.plot((_KEY, _KL), (line + 0.12, line + 0.12), color=_RULE, linewidth=0.8)
    return line + 0.26


def _entry(axes: "Axes", line: float, name: str, kl: float) -> float:
    axes.text(_KEY + 0.22, line, name, fontsize=8, va="center", parse_math=False)
    axes.text(_KL, line, f"{kl:.1e}" if kl else "0", fontsize=8, va="center", ha="right", family="monospace")
    return line + _LINE


def _layer_names(layers: Sequence[Row]) -> list[str]:
    """The module of each with its role or operator, and with its node where two would have the same name."""
    kinds = [(row["module"], row["role"] or row["operator"]) for row in layers]
    return [
        f"{row['module'] or row['node']} ({kind}{' ' + row['node'] if kinds.count((module, kind)) > 1 else ''})"
        for row, (module, kind) in zip(layers, kinds, strict=True)
    ]


def shorten(text: str, longest: int) -> str:
    """A name that is too long, without its beginning, because names differ at their end; cut at a dot where one is near."""
    if len(text) <= longest:
        return text
    end = text[len(text) - longest + 1 :]
    dot = end.find(".") + 1
    return "…" + (end[dot:] if dot <= longest // 2 else end)
