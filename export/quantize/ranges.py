"""The ranges of activations: a graph's tensors on calibration images, with nvidia-modelopt's thresholds and one of ours."""

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.onnx_export import INPUT
from export.quantize.histogram import Counts, Floats, Histogram
from export.quiet import quiet

if TYPE_CHECKING:
    from modelopt.torch.quantization.calib import HistogramCalibrator

RangeMethod = Literal["max", "entropy", "percentile", "mse"]
FIRST_BIN = 128  # no threshold is tried under so many bins: a grid finer than the histogram
STRIDE = 16  # bins between the thresholds that entropy and MSE try: 0.8 % of the range


@dataclass(frozen=True)
class Range:
    """What calibration found for one tensor.

    `amax` is where quantization clips, `low` and `high` what was seen; `saturated` is the share of values beyond amax,
    from 0 to 1.
    """

    amax: float
    low: float
    high: float
    saturated: float

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest number that was seen."""
        return self.low, self.high


def collect_ranges(
    proto: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[NDArray[np.uint8]], method: RangeMethod = "max",
    percentile: float = 99.99, threads: int = 0,
) -> dict[str, Range]:  # fmt: skip
    """The range of each of `tensors` (float32) over all `batches` (n, H, W, 3) of images.

    `max` is the largest magnitude. `entropy`, `percentile` and `mse` choose from a histogram of magnitudes, whose memory
    does not depend on the images, nor the answer on their order or batches: the first two with modelopt's search, `mse`
    with ours, since modelopt 0.47 hands the number of bits over as a bias there and clips at a sixteenth of the range.
    RuntimeError where a tensor is not finite, ValueError without images.
    """
    meters = {name: _Meter(method) for name in dict.fromkeys(tensors)}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tapped.onnx"
        onnx.save(_with_outputs(proto, list(meters)), path)
        from export.engines import onnxruntime_backend

        with onnxruntime_backend.load(path, threads) as runner:
            for images in batches:
                values = runner.infer({INPUT: images})
                for name, meter in meters.items():
                    meter.add(name, values[name])
    return {name: meter.range(percentile) for name, meter in meters.items()}


def _with_outputs(proto: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy that also gives out `tensors`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    given = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in given
    )
    known = [info for info in copy.graph.value_info if info.name not in set(tensors)]
    del copy.graph.value_info[:]  # a tensor is described once
    copy.graph.value_info.extend(known)
    return copy


class _Meter:
    """One tensor's extremes, and the histogram of its magnitudes where the method asks for one."""

    def __init__(self, method: RangeMethod):
        self._method = method
        self._histogram = None if method == "max" else Histogram()
        self._low, self._high = math.inf, -math.inf

    def add(self, name: str, values: NDArray[np.float32]) -> None:
        """Take in one batch."""
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise RuntimeError(
                f"the FP32 network makes NaN or Inf on calibration images, in {name}: nothing to calibrate"
            )
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._histogram is not None:
            self._histogram.add(values)

    def range(self, percentile: float) -> Range:
        """The range so far."""
        if self._high < self._low:
            raise ValueError("no calibration images")
        highest = max(-self._low, self._high)
        if self._histogram is None or highest == 0:
            return Range(highest, self._low, self._high, 0.0)
        counts, edges = self._histogram.bins()
        if self._method == "mse":
            amax = mse_amax(counts, edges)
        elif self._method == "entropy":
            amax = entropy_amax(counts, edges)
        else:
            amax = percentile_amax(counts, edges, percentile)
        beyond = counts[edges[:-1] >= amax * (1 - 1e-6)].sum() / counts.sum()  # of bins that begin at amax or above
        return Range(amax, self._low, self._high, float(beyond))


def entropy_amax(counts: Counts, edges: Floats) -> float:
    """The threshold whose 128 levels have the least Kullback-Leibler divergence from the histogram: modelopt's search.

    `counts` (bins,), `edges` (bins + 1,). Every `STRIDE`-th edge is tried. The search takes the first bin to be as full as
    the second; thresholds under which nothing is left then are not tried: their divergence is NaN, which it prefers.
    """
    occupied = int(np.flatnonzero(counts[1:])[0]) + 1
    first = FIRST_BIN + STRIDE * max(0, math.ceil((occupied + 1 - FIRST_BIN) / STRIDE))
    return float(_modelopts(counts, edges).compute_amax("entropy", stride=STRIDE, start_bin=first))


def percentile_amax(counts: Counts, edges: Floats, percentile: float) -> float:
    """The lower edge of the bin in which the cumulative share reaches `percentile`: modelopt's search.

    Of the first bin it is the upper edge, since 0 would say that the tensor is always zero.
    """
    found = _modelopts(counts, edges).compute_amax("percentile", percentile=percentile)
    return max(float(found), float(edges[1]))


def _modelopts(counts: Counts, edges: Floats) -> "HistogramCalibrator":
    """modelopt's calibrator with a histogram of ours, as numpy arrays: of a tensor's counts it would make int32."""
    with quiet():  # importing it warns of a missing GPU
        from modelopt.torch.quantization.calib import HistogramCalibrator

    calibrator = HistogramCalibrator()
    calibrator._calib_hist, calibrator._calib_bin_edges = counts.copy(), edges  # it writes into the counts
    return calibrator


def mse_amax(counts: Counts, edges: Floats) -> float:
    """The clipping threshold with the least squared error of INT8 (±127 steps), from a histogram of magnitudes.

    `counts` (bins,), `edges` (bins + 1,). Every `STRIDE`-th edge is tried, and the last.
    """
    centres = (edges[1:] + edges[:-1]) / 2
    thresholds = np.append(edges[FIRST_BIN:-1:STRIDE], edges[-1])
    errors = [
        float((counts * (np.minimum(np.rint(centres / scale), 127) * scale - centres) ** 2).sum())
        for scale in thresholds / 127
    ]
    return float(thresholds[int(np.argmin(errors))])
