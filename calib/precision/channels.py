"""What feature maps do to quantization, channel by channel: dead and exploding channels, INT8 levels, where the error is.

The idea is figure 2 of the T2T-ViT paper (arXiv 2101.11986), which marks "invalid" feature maps, with zero or too large
values; the thresholds and the reading for INT8 are ours (docs/visualize.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEAD_SHARE = 1e-6  # of the median channel's amax: below it, a channel is dead
EXPLODING_TIMES = 20.0  # the median channel's amax: above it, a channel explodes and leaves the others under 7 levels
MAX_EXTRA_TOKENS = 5  # a class token and four registers; also a distillation token
INT8_LEVELS = 127  # of each sign: a symmetric INT8 scale is amax / 127
SETTER_SHARE = 0.5  # of the tensor's amax: without the channels above it, the others gain at least one bit

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Layout:
    """Where channels lie in a tensor (B, …): their axis, their number, and the rows and columns of one channel's map.

    `extra_tokens` stand before those of the map: class, distillation, registers.
    """

    axis: int
    channels: int
    grid: tuple[int, int]
    extra_tokens: int = 0


def find_layout(shape: Sequence[int], aspect: float = 1.0) -> Layout | None:
    """The layout of a tensor of `shape`, without the batch; None where it holds no maps, or maps of one pixel.

    (C, H, W) or, where only that gives the maps the images' `aspect` (height over width), (H, W, C); (T, D) tokens, of a map of
    that aspect and a few extra ones first.
    """
    if len(shape) == 3:
        last = _fits(shape[0], shape[1], aspect) and not _fits(shape[1], shape[2], aspect)
        layout = Layout(3, shape[2], (shape[0], shape[1])) if last else Layout(1, shape[0], (shape[1], shape[2]))
        return layout if math.prod(layout.grid) > 1 else None
    if len(shape) != 2:
        return None
    grid = largest_grid(shape[0], aspect)
    side, extra = min(grid), shape[0] - math.prod(grid)
    if side < 2 or extra > min(MAX_EXTRA_TOKENS, side - 1):  # nearly every small number is a map plus a few
        return None
    return Layout(2, shape[1], grid, extra)


def largest_grid(tokens: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of the largest map of this `aspect` (rows over columns) with at most so many tokens."""
    columns = math.isqrt(math.floor(tokens / aspect)) + 1
    while columns * round(columns * aspect) > tokens:
        columns -= 1
    return round(columns * aspect), columns


def _fits(rows: int, columns: int, aspect: float) -> bool:
    return rows == round(columns * aspect)


def channel_maps(tensor: Array, layout: Layout) -> Array:
    """One image's tensor (1, …) as maps (channels, rows, columns); extra tokens have no place in them."""
    values = np.moveaxis(tensor[0], layout.axis - 1, 0).reshape(layout.channels, -1)  # C positions
    return values[:, layout.extra_tokens :].reshape(layout.channels, *layout.grid)  # C rows columns


@dataclass(frozen=True)
class ChannelMeasure:
    """Statistics of one tensor, FP32's and, where an engine ran, its error against that; arrays are (channels,) float64.

    `zeros` is the share of values that are 0, from 0 to 1; `not_finite` counts FP32's NaN and Inf, which are in no
    other number, `engine_not_finite` the engine's. `error_power` is the sum of squared differences.
    """

    amax: Array
    mean_abs: Array
    zeros: Array
    not_finite: NDArray[np.int64]
    power: float
    error_power: Array | None = None
    engine_not_finite: int = 0

    @cached_property
    def median_amax(self) -> float:
        """Of the channels that are not all zero; 0 where all are."""
        return _median(self.amax)

    @cached_property
    def dead(self) -> list[int]:
        """Channels whose largest value is 0 or under `DEAD_SHARE` of the median channel's."""
        small = (self.amax == 0) | (self.amax < DEAD_SHARE * self.median_amax)
        return _indices(small & (self.not_finite == 0))

    @cached_property
    def exploding(self) -> list[int]:
        """Channels whose largest value is over `EXPLODING_TIMES` the median channel's, or not finite."""
        return _indices((self.amax > EXPLODING_TIMES * self.median_amax) | (self.not_finite > 0))

    @cached_property
    def levels(self) -> float | None:
        """INT8 levels (of 127) that the median channel spans under one scale for the tensor; None where it is all zero."""
        return _levels(self.amax)

    @cached_property
    def scale_setters(self) -> list[int]:
        """The channels over `SETTER_SHARE` of the tensor's amax, largest first: they alone make the scale this coarse."""
        found = np.flatnonzero(self.amax > SETTER_SHARE * self.amax.max())
        return [int(channel) for channel in found[np.argsort(-self.amax[found], kind="stable")]]

    @cached_property
    def levels_without(self) -> float | None:
        """`levels` as they would be without the scale setters; None where nothing is left."""
        return _levels(np.delete(self.amax, self.scale_setters))

    @cached_property
    def error_share(self) -> Array | None:
        """Each channel's share of the error power, from 0 to 1; None without an engine."""
        if self.error_power is None:
            return None
        return self.error_power / (self.error_power.sum() or 1.0)

    @cached_property
    def relative_error(self) -> float | None:
        """√(error power / power); None without an engine, where it is not finite, or where the tensor is all zero."""
        if self.error_power is None or self.engine_not_finite or self.power == 0:
            return None
        return math.sqrt(float(self.error_power.sum()) / self.power)

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio of the engine's tensor, dB; None where `relative_error` is None, or 0."""
        return -20 * math.log10(self.relative_error) if self.relative_error else None


class ChannelMeter:
    """Gathers a `ChannelMeasure` batch by batch, with a few numbers a channel as its only memory."""

    def __init__(self, layout: Layout):
        self._layout = layout
        self._axes = tuple(axis for axis in range(4 if layout.axis in (1, 3) else 3) if axis != layout.axis)
        self._amax, self._sum_abs, self._zeros, self._error = (np.zeros(layout.channels) for _ in range(4))
        self._not_finite = np.zeros(layout.channels, dtype=np.int64)
        self._count, self._engine_not_finite, self._power = 0, 0, 0.0
        self._compared = False

    def add(self, reference: Array, engine: Array | None = None) -> None:
        """Take in a batch of the FP32 tensor (B, …) and, if there is one, the engine's, of the same shape."""
        if reference.shape[self._layout.axis] != self._layout.channels:
            raise ValueError(f"a tensor of {self._layout.channels} channels was expected, got {reference.shape}")
        bad = ~np.isfinite(reference)
        values = np.where(bad, 0, reference)
        absolute = np.abs(values)
        self._amax = np.maximum(self._amax, absolute.max(axis=self._axes))
        self._sum_abs += absolute.sum(axis=self._axes, dtype=np.float64)
        self._zeros += (reference == 0).sum(axis=self._axes)
        self._not_finite += bad.sum(axis=self._axes)
        self._power += float(np.square(values, dtype=np.float64).sum())
        self._count += reference.size // self._layout.channels
        if engine is not None:
            self._compare(values, engine, bad)

    def _compare(self, values: Array, engine: Array, bad: NDArray[np.bool_]) -> None:
        if engine.shape != values.shape:
            raise ValueError(f"the engine's tensor is {engine.shape}, FP32's {values.shape}")
        wrong = ~np.isfinite(engine)
        difference = np.where(bad | wrong, 0, engine) - np.where(bad | wrong, 0, values)
        self._error += np.square(difference, dtype=np.float64).sum(axis=self._axes)
        self._engine_not_finite += int((wrong & ~bad).sum())
        self._compared = True

    def measure(self) -> ChannelMeasure:
        """What was gathered; ValueError before the first batch."""
        if self._count == 0:
            raise ValueError("no batch was measured")
        finite = np.maximum(self._count - self._not_finite, 1)
        return ChannelMeasure(
            self._amax, self._sum_abs / finite, self._zeros / self._count, self._not_finite, self._power,
            self._error if self._compared else None, self._engine_not_finite,
        )  # fmt: skip


def choose_channels(measure: ChannelMeasure, count: int) -> list[int]:
    """At most `count` channels to show, rising: exploding ones, then dead ones, then evenly spaced others.

    Dead ones look alike: where there are others, they get half of the places at most.
    """
    exploding = sorted(measure.exploding, key=lambda channel: -measure.amax[channel])[:count]
    marked = {*measure.exploding, *measure.dead}
    others = [channel for channel in range(len(measure.amax)) if channel not in marked]
    free = count - len(exploding)
    dead = measure.dead[: max(free // 2, free - len(others))]
    return sorted(exploding + dead + evenly_spaced(others, free - len(dead)))


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of `items` in their order, the first and the last among them; all where there are no more."""
    if count >= len(items):
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, max(count, 0)).round().astype(int)]


def _levels(amax: Array) -> float | None:
    return INT8_LEVELS * _median(amax) / float(amax.max()) if amax.size and amax.max() > 0 else None


def _median(amax: Array) -> float:
    alive = amax[amax > 0]
    return float(np.median(alive)) if alive.size else 0.0


def _indices(mask: NDArray[np.bool_]) -> list[int]:
    return [int(index) for index in np.flatnonzero(mask)]
