"""`evaluate`, `benchmark`, `gate` and `visualize`: what is measured, and what has to be kept."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.parts.part import LEFT_OUT, Fraction, Part, Positive, Precision
from pipeline.tasks.words import Words

_MLPERF = 0.99  # the rule of MLPerf Inference for most tasks


class EvaluatePart(Part):
    batch_size: Positive = 50
    """Images at a time."""


class BenchmarkPart(Part):
    """`rounds` interleaved rounds of `calls` timed calls per engine and batch size, after `warmup` calls.

    The warm-up takes `warmup_ms` milliseconds at least; slow engines make as many calls as fit into `seconds`. On a GPU,
    engines run as a `cuda_graph` where they can, and the CPU waits asleep unless `spin` is set. Energy is measured over
    `energy_seconds` of load; 0 measures none.
    """

    batch_sizes: tuple[Positive, ...] = (1, 8)
    """Each is measured."""
    warmup: Positive = 10
    """Calls that are not counted."""
    warmup_ms: Annotated[int, Field(ge=0)] = 200
    """The warm-up takes so many milliseconds at least."""
    cuda_graph: bool = True
    """On a GPU, run engines as a CUDA graph where they can."""
    spin: bool = False
    """On a GPU, let the CPU wait busily."""
    energy_seconds: Annotated[float, Field(ge=0)] = 2.0
    """Seconds of load in which energy is measured; 0 measures none."""
    rounds: Positive = 10
    """In each round every engine has its turn."""
    calls: Positive = 30
    """Timed calls of an engine in a round, fewer where all rounds would take longer than `seconds`."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """About how long all timed calls of an engine at a batch size may take; three calls in each round are made in any case."""
    threads: Positive = 2
    """Of CPU engines."""


class VisualizePart(Part):
    """Feature maps of `blocks` blocks, FP32 beside one engine; `precision` None is int8 where it is made, else the last.

    Statistics of `images` calibration images; the picture shows `channels` channels of evaluation image `image`.
    """

    backend: Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"] = "onnxruntime"
    """Of the engine beside FP32."""
    precision: Precision | None = None
    """Of the engine beside FP32; without it int8 where it is made, else the last."""
    images: Positive = 64
    """Calibration images that statistics are of."""
    blocks: Annotated[int, Field(ge=2, le=32)] = 8
    """At most so many blocks are drawn."""
    channels: Annotated[int, Field(ge=1, le=64)] = 16
    """Channels of a block that are drawn."""
    image: Annotated[int, Field(ge=0)] = 0
    """Which evaluation image, counted from 0."""


class GatePart(Part):
    min_relative_top1: Fraction = _MLPERF
    """The share of FP32's top-1 that an engine must keep."""
    min_relative_miou: Annotated[Fraction | None, LEFT_OUT] = None
    """With data.task segmentation: the share of FP32's mIoU that an engine must keep; without it 0.99."""

    def share(self, words: Words) -> float:
        """Of FP32's score of a task, what an engine must keep."""
        given: float | None = getattr(self, words.gate)
        return _MLPERF if given is None else given
