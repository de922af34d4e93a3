"""`evaluate`, `benchmark`, `gate` and `visualize`: what is measured, and what has to be kept."""

from typing import Annotated

from pydantic import Field

from export.engines.spec import Backend
from pipeline.parts.part import Fraction, Part, Positive, Precision


class EvaluatePart(Part):
    batch_size: Positive = 50


class BenchmarkPart(Part):
    """`rounds` interleaved rounds of `calls` timed calls per engine and batch size, after `warmup` calls.

    The warm-up takes `warmup_ms` milliseconds at least. On a GPU, engines run as a `cuda_graph` where they can, and the
    CPU waits asleep unless `spin` is set. Energy is measured over `energy_seconds` of load; 0 measures none.
    """

    batch_sizes: tuple[Positive, ...] = (1, 8)
    warmup: Positive = 10
    warmup_ms: Annotated[int, Field(ge=0)] = 200
    cuda_graph: bool = True
    spin: bool = False
    energy_seconds: Annotated[float, Field(ge=0)] = 2.0
    rounds: Positive = 10
    calls: Positive = 30
    threads: Positive = 2


class VisualizePart(Part):
    """Feature maps of `blocks` blocks, FP32 beside one engine; `precision` None is int8 where it is made, else the last.

    Statistics of `images` calibration images; the picture shows `channels` channels of evaluation image `image`.
    """

    backend: Backend = "onnxruntime"
    precision: Precision | None = None
    images: Positive = 64
    blocks: Annotated[int, Field(ge=2, le=32)] = 8
    channels: Annotated[int, Field(ge=1, le=64)] = 16
    image: Annotated[int, Field(ge=0)] = 0


class GatePart(Part):
    min_relative_top1: Fraction = 0.99
