"""The pictures of feature maps and of token attention: grey squares in rows, marked with a frame and a letter."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.precision.channels import Array
from calib.preprocess import Image
from pipeline.console.figures import MISSING, counted
from pipeline.visualize.summary import graph_text, snr_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart, and a letter beside.
MARKS = {"exploding": ("E", "#D55E00"), "dead": ("D", "#0072B2")}
_DPI = 160
_WIDTH = 10.0  # of the page, in inches, like every length here
_MARGIN, _LABEL, _GAP, _NUMBERS, _HEAD = 0.15, 1.75, 0.2, 1.3, 1.75
_PER_LINE, _BETWEEN = 16, 0.05  # maps in a line, of all groups together, and the space between two maps
_SOFT, _RULE = "#5A6472", "#DFE3E8"


class Page:
    """A white page, in inches, y measured from the top. Pixels are pasted first; frames and text are drawn over them."""

    def __init__(self, height: float):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = math.ceil(height * _DPI)
        self._pixels = np.full((rows, round(_WIDTH * _DPI), 3), 255, dtype=np.uint8)
        self._figure = Figure(figsize=(_WIDTH, rows / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(self._figure)
        self.axes = self._figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, _WIDTH)
        self.axes.set_ylim(rows / _DPI, 0)
        self.axes.axis("off")

    def paste(self, pixels: Image, corner: tuple[float, float], side: float) -> None:
        """Enlarge `pixels` (rows, columns, 3), without smoothing and keeping their proportions, until they fill a square of
        `side` with its top left corner at `corner` in one direction, and paste them into its middle."""
        left, top, size = round(corner[0] * _DPI), round(corner[1] * _DPI), round(side * _DPI)
        height, width = (max(1, round(size * count / max(pixels.shape[:2]))) for count in pixels.shape[:2])
        rows, columns = np.arange(height) * pixels.shape[0] // height, np.arange(width) * pixels.shape[1] // width
        top, left = top + (size - height) // 2, left + (size - width) // 2
        self._pixels[top : top + height, left : left + width] = pixels[np.ix_(rows, columns)]

    def png(self) -> bytes:
        """The finished page."""
        self._figure.figimage(self._pixels, origin="upper", zorder=-1)  # pixel by pixel; imshow would resample
        buffer = io.BytesIO()
        self._figure.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()


@dataclass(frozen=True)
class Picture:
    """One block's maps of one image, (shown channels, rows, columns): FP32's, and the engine's or None where there are none."""

    reference: Array
    engine: Array | None


@dataclass(frozen=True)
class _Grid:
    """The layout of the maps: one group for FP32, and one for the engine where it ran."""

    groups: int

    @property
    def per_line(self) -> int:
        return _PER_LINE // self.groups

    @property
    def cell(self) -> float:
        """Side length of a map."""
        room = _WIDTH - 2 * _MARGIN - _LABEL - _NUMBERS - 2 * _GAP
        return room / _PER_LINE - _BETWEEN

    def left(self, group: int) -> float:
        """Left edge of a group."""
        return _MARGIN + _LABEL + group * (self.per_line * (self.cell + _BETWEEN) + _GAP)

    def corner(self, group: int, index: int, top: float) -> tuple[float, float]:
        """Upper left corner of map `index` of a group."""
        line, column = divmod(index, self.per_line)
        step = self.cell + _BETWEEN
        return self.left(group) + column * step, top + line * step

    def height(self, block: dict[str, Any]) -> float:
        """Height of a block's row, enough for its text."""
        lines = math.ceil(len(block["shown"]) / self.per_line)
        text = 0.45 + 0.17 * (_broken(block["name"]).count("\n") + 1)
        return max(lines * (self.cell + _BETWEEN), text) + 0.22


def draw_features(summary: dict[str, Any], pictures: Sequence[Picture], image: Image) -> bytes:
    """PNG bytes, 1600 pixels wide: the image, then a row for each block of `summary` (channels.json)."""
    grid = _Grid(1 if summary["reason"] else 2)
    heights = [grid.height(block) for block in summary["blocks"]]
    page = Page(_HEAD + sum(heights))
    _draw_head(page, summary, image, grid)
    top = _HEAD
    for block, picture, height in zip(summary["blocks"], pictures, heights, strict=True):
        page.axes.plot((_MARGIN, _WIDTH - _MARGIN), (top - 0.09, top - 0.09), color=_RULE, linewidth=0.8)
        _draw_text(page.axes, top, block)
        for group, maps in enumerate((picture.reference, picture.engine)[: grid.groups]):
            if maps is not None:
                _draw_maps(page, grid, group, top, block, picture.reference, maps)
            else:
                page.axes.text(grid.left(group), top + 0.1, "not in this graph", fontsize=8, color=_SOFT, va="center")
        _draw_numbers(page.axes, top, block, compared=grid.groups == 2)
        top += height
    return page.png()


def describe_image(shown: dict[str, Any]) -> str:
    """Its class, or where it has none of its own, its file."""
    return str(shown["path"]) if shown["class"] is None else f"class {shown['class']}"


def _draw_head(page: Page, summary: dict[str, Any], image: Image, grid: _Grid) -> None:
    """The image, a description, the meaning of the marks, and a heading for each group of maps."""
    axes = page.axes
    page.paste(image, (_MARGIN, 0.15), 1.25)
    left, alone = grid.left(0), grid.groups == 1
    shown, limits = summary["image"], summary["thresholds"]
    axes.text(left, 0.27, f"{summary['model']}: feature maps", fontsize=13, va="center", parse_math=False)
    beside = f"FP32 alone: {summary['engine']} did not run here" if alone else f"FP32 beside {summary['engine']}"
    lines = [
        f"{beside}. Evaluation image {shown['index']}, {describe_image(shown)}; "
        f"statistics of {counted(summary['images'], 'calibration image')}.",
        f"A map's greys run from its smallest to its largest FP32 value{'' if alone else ', in both columns'}. "
        "Levels: see docs/visualize.md.",
    ]
    for index, line in enumerate(lines):
        axes.text(left, 0.55 + 0.2 * index, line, fontsize=8.5, color=_SOFT, va="center", parse_math=False)
    explained = {
        "exploding": f"exploding: over {limits['exploding_times']:g} × the median channel's largest value",
        "dead": f"dead: 0, or under 1/{1 / limits['dead_share']:,.0f} of it",
    }
    for kind, x in zip(explained, (left, left + 4.3), strict=True):
        letter, colour = MARKS[kind]
        _frame(axes, (x, 0.94), 0.15, colour, letter)
        axes.text(x + 0.25, 1.02, explained[kind], fontsize=8.5, va="center")
    for group, name in enumerate(("FP32", summary["engine"])[: grid.groups]):
        axes.text(grid.left(group), _HEAD - 0.24, name, fontsize=10, va="center", weight="bold", parse_math=False)


def _draw_text(axes: "Axes", top: float, block: dict[str, Any]) -> None:
    """The block's name, shape and counts, on the left; a long path breaks at its dots."""
    name = _broken(block["name"])
    axes.text(_MARGIN, top, name, fontsize=9, va="top", weight="bold", parse_math=False, linespacing=1.1)
    shape = " × ".join(map(str, block["shape"]))
    channels = counted(block["channels"], "channel")
    counts = f"{shape}\n{len(block['dead'])} dead, {len(block['exploding'])} exploding\nof {channels}"
    below = top + 0.155 * (name.count("\n") + 1)
    axes.text(_MARGIN, below, counts, fontsize=8, va="top", color=_SOFT, linespacing=1.25)


def _broken(name: str, width: int = 22) -> str:
    """A module's path in lines of `width` signs, broken at its dots."""
    lines = [""]
    for part in name.split("."):
        grown = f"{lines[-1]}.{part}" if lines[-1] else part
        if lines[-1] and len(grown) > width:
            lines[-1] += "."
            lines.append(part)
        else:
            lines[-1] = grown
    return "\n".join(line if len(line) <= width + 1 else f"{line[: width - 1]}…" for line in lines)


def _draw_numbers(axes: "Axes", top: float, block: dict[str, Any], compared: bool) -> None:
    """SNR and levels, on the right."""
    x = _WIDTH - _MARGIN - _NUMBERS + 0.1
    if compared:
        axes.text(x, top, f"SNR {snr_text(block)}", fontsize=9, va="top", weight="bold")
        top += 0.17
        if graph := graph_text(block):
            axes.text(x, top, graph, fontsize=8, va="top")
            top += 0.15
    levels = MISSING if block["levels"] is None else f"{block['levels']:.3g}"
    lines = f"median channel:\n{levels} of 127 levels"
    axes.text(x, top, lines, fontsize=8, va="top", color=_SOFT, linespacing=1.25)


def _draw_maps(
    page: Page, grid: _Grid, group: int, top: float, block: dict[str, Any], reference: Array, maps: Array
) -> None:
    """One group of maps, each on the grey scale of its FP32 map; dead and exploding channels get a coloured frame."""
    for index, channel in enumerate(block["shown"]):
        corner = grid.corner(group, index, top)
        page.paste(_grey(maps[index], reference[index]), corner, grid.cell)
        kind = next((kind for kind in MARKS if channel in block[kind]), None)
        letter, colour = MARKS[kind] if kind else ("", _RULE)
        _frame(page.axes, corner, grid.cell, colour, letter)


def _grey(values: Array, reference: Array) -> Image:
    """RGB uint8 (rows, columns, 3): black at FP32's smallest value, white at its largest; constant maps are mid-grey."""
    finite = reference[np.isfinite(reference)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    span = high - low
    shares = (np.nan_to_num(values, posinf=high, neginf=low) - low) / span if span > 0 else np.full(values.shape, 0.5)
    grey = (255 * np.clip(shares, 0, 1)).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _frame(axes: "Axes", corner: tuple[float, float], side: float, colour: str, letter: str) -> None:
    """A thin frame, or with a `letter` a thick one that has it in its corner."""
    from matplotlib.patches import Rectangle

    width = 2.2 if letter else 0.8
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=width, zorder=2))
    if letter:
        tag = min(0.15, side)
        axes.add_patch(Rectangle(corner, tag, tag, facecolor=colour, edgecolor="none", zorder=3))
        middle = (corner[0] + tag / 2, corner[1] + tag / 2)
        axes.text(*middle, letter, fontsize=7, color="white", weight="bold", ha="center", va="center", zorder=4)


def draw_attention(summary: dict[str, Any], attention: Sequence[Array], image: Image) -> bytes:
    """PNG bytes, 1600 pixels wide: the attention of each tokenizer in `summary`, a map (rows, columns) for each of its tokens."""
    per_line, head = 8, 0.95
    step = (_WIDTH - 2 * _MARGIN - _LABEL) / per_line
    heights = [math.ceil(len(maps) / per_line) * step + 0.2 for maps in attention]
    page = Page(head + sum(heights))
    _draw_attention_head(page.axes, summary)
    top = head
    for entry, maps, height in zip(summary["attention"], attention, heights, strict=True):
        page.axes.plot((_MARGIN, _WIDTH - _MARGIN), (top - 0.1, top - 0.1), color=_RULE, linewidth=0.8)
        name = _broken(entry["name"])
        page.axes.text(_MARGIN, top, name, fontsize=9, va="top", weight="bold", parse_math=False)
        note = f"{counted(entry['tokens'], 'token')}\nover {' × '.join(map(str, entry['grid']))}"
        page.axes.text(_MARGIN, top + 0.17 * (name.count("\n") + 1), note, fontsize=8, va="top", color=_SOFT)
        for index, weights in enumerate(maps):
            line, column = divmod(index, per_line)
            page.paste(_overlay(image, weights), (_MARGIN + _LABEL + column * step, top + line * step), step - 0.08)
        top += height
    return page.png()


def _draw_attention_head(axes: "Axes", summary: dict[str, Any]) -> None:
    shown = summary["image"]
    axes.text(
        _MARGIN, 0.27, f"{summary['model']}: where visual tokens look", fontsize=13, va="center", parse_math=False
    )
    text = (
        f"FP32, evaluation image {shown['index']}, {describe_image(shown)}. "
        "Each square: one token's attention over the image; bright is its largest weight."
    )
    axes.text(_MARGIN, 0.55, text, fontsize=8.5, color=_SOFT, va="center", parse_math=False)


def _overlay(image: Image, weights: Array) -> Image:
    """The image in grey, dark where a token's attention is small and tinted where it is large, (H, W, 3)."""
    from matplotlib import colormaps

    height, width = image.shape[:2]
    rows = np.arange(height) * weights.shape[0] // height
    columns = np.arange(width) * weights.shape[1] // width
    large = np.nan_to_num(weights[np.ix_(rows, columns)])  # H W
    share = (large - large.min()) / ((large.max() - large.min()) or 1.0)
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) / 255  # H W 3
    heat = colormaps["inferno"](share)[..., :3]
    return (255 * (0.45 * grey + 0.55 * heat)).round().astype(np.uint8)
