"""The ranges of activations: a graph's tensors on calibration images, through nvidia-modelopt's calibrators."""

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
from export.quiet import quiet

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
RangeMethod = Literal["max", "entropy", "percentile", "mse"]
BINS = 2048  # of a histogram over |x|; modelopt's default
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


def collect_ranges(
    proto: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[NDArray[np.uint8]], method: RangeMethod = "max",
    percentile: float = 99.99, threads: int = 0,
) -> dict[str, Range]:  # fmt: skip
    """The range of each of `tensors` (float32) over all `batches` (n, H, W, 3) of images.

    `max` is the largest magnitude; `entropy`, `percentile` and `mse` choose from a histogram of magnitudes, as
    modelopt's `HistogramCalibrator` does, but for `mse`, which is ours: modelopt 0.47 hands the number of bits over as a
    bias there and clips at a sixteenth of the range. RuntimeError where a tensor is not finite, ValueError without images.
    """
    meters = {name: _Meter(method) for name in dict.fromkeys(tensors)}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tapped.onnx"
        onnx.save(_with_outputs(proto, list(meters)), path)
        from export import onnxruntime_backend

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
    """One tensor's calibrator, and the extremes it saw."""

    def __init__(self, method: RangeMethod):
        with quiet():  # importing it warns of a missing GPU
            from modelopt.torch.quantization.calib import HistogramCalibrator, MaxCalibrator

        self._method = method
        self._calibrator = MaxCalibrator() if method == "max" else HistogramCalibrator(num_bins=BINS)
        self._low, self._high = math.inf, -math.inf

    def add(self, name: str, values: NDArray[np.float32]) -> None:
        """Take in one batch."""
        import torch

        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise RuntimeError(
                f"the FP32 network makes NaN or Inf on calibration images, in {name}: nothing to calibrate"
            )
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._method == "max" or max(-low, high) > 0:  # a histogram of nothing but zeros has no bins
            self._calibrator.collect(torch.from_numpy(values))

    def range(self, percentile: float) -> Range:
        """The range so far."""
        if self._high < self._low:
            raise ValueError("no calibration images")
        highest = max(-self._low, self._high)
        if self._method == "max" or highest == 0:
            return Range(highest, self._low, self._high, 0.0)
        counts, edges = self._histogram()
        if self._method == "mse":
            amax = mse_amax(counts, edges)
        elif self._method == "entropy":
            self._coarsen()
            amax = float(self._calibrator.compute_amax("entropy", stride=STRIDE))
        else:
            amax = float(self._calibrator.compute_amax("percentile", percentile=percentile))
        beyond = counts[edges[:-1] >= amax * (1 - 1e-6)].sum() / counts.sum()  # of bins that begin at amax or above
        return Range(amax, self._low, self._high, float(beyond))

    def _coarsen(self) -> None:
        """Join neighbouring bins to at most `BINS`: batches with a larger range than the first one's added bins, and
        modelopt's search goes through every bin for every threshold (minutes for one tensor of 20,000 bins)."""
        counts, edges = self._calibrator._calib_hist, self._calibrator._calib_bin_edges
        joined = math.ceil(len(counts) / BINS)
        missing = -len(counts) % joined
        width = edges[1] - edges[0]
        padded = counts.new_zeros(len(counts) + missing)
        padded[: len(counts)] = counts
        self._calibrator._calib_hist = padded.reshape(-1, joined).sum(dim=1)
        self._calibrator._calib_bin_edges = edges[0] + width * joined * edges.new_tensor(
            range(len(padded) // joined + 1)
        )

    def _histogram(self) -> tuple[Floats, Floats]:
        """Counts (bins,) and edges (bins + 1,) of magnitudes, float64."""
        counts: torch.Tensor = self._calibrator._calib_hist
        edges: torch.Tensor = self._calibrator._calib_bin_edges
        return counts.double().numpy(), edges[: len(counts) + 1].double().numpy()


def mse_amax(counts: Floats, edges: Floats) -> float:
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
