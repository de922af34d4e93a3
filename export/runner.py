"""What every backend gives: an engine file from `build`, and a runner that takes and returns named arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
INPUT, OUTPUT = "images", "logits"  # of every network: uint8 (N, H, W, 3) in, float (N, classes[, H, W]) out
DEFAULT_TASK = "classification"  # of a graph or an engine whose file names none
# Metadata of a graph for engines in BF16: the tensors that they compute in FP32, a list in JSON.
FP32_TENSORS = "t2t_edge.fp32_tensors"


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: `shape` has None where the size is free; `dtype` is numpy's name."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Engine:
    """A built engine: its file(s), the layer count by precision if the backend tells (int8, bf16, fp16, fp32), and notes."""

    path: Path
    layers: dict[str, int] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class Unavailable(Exception):
    """This backend cannot build or run on this machine; the text is the reason, in one line."""


@dataclass(frozen=True)
class RunOptions:
    """How a GPU runs an engine: as a CUDA graph where that can be captured; `spin`: the CPU waits busily, not asleep."""

    cuda_graph: bool = True
    spin: bool = False


@dataclass(frozen=True)
class RunMode:
    """How a GPU ran an engine. `graphs`: batch size → "" where it ran as a CUDA graph, else why it did not.

    `sync` is how the CPU waited, spin or blocking; `transfers`: times hold the copies to and from the GPU.
    """

    graphs: dict[int, str]
    sync: str
    transfers: bool


@dataclass(frozen=True)
class DeviceTimes:
    """Milliseconds of one call by the GPU's clock; their sum is what trtexec calls latency."""

    copy_in: float
    compute: float
    copy_out: float

    @property
    def total(self) -> float:
        return self.copy_in + self.compute + self.copy_out


class Runner(Protocol):
    """A context manager that runs one engine. Outputs belong to the caller."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]: ...
    @property
    def outputs(self) -> tuple[TensorInfo, ...]: ...
    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]: ...
    def __enter__(self) -> "Runner": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def fixed_batch(inputs: tuple[TensorInfo, ...]) -> int | None:
    """The only batch size that a graph with these inputs takes; None where it takes any."""
    return inputs[0].shape[0] if inputs and inputs[0].shape else None


def in_fixed_batches(
    inputs: tuple[TensorInfo, ...], feeds: Arrays, run: Callable[[Arrays], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """`run`, of one batch, on feeds of any number of images: a graph with a fixed batch gets batches of its size.

    The last batch is filled up with its last image. Of outputs with a row for each image, rows of such images are left out.
    """
    size, images = fixed_batch(inputs), {len(array) for array in feeds.values() if np.ndim(array)}
    if size is None or images == {size} or len(images) != 1 or 0 in images:
        return run(feeds)
    (count,) = images
    parts = []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        parts.append(run({name: np.ascontiguousarray(array[rows]) for name, array in feeds.items()}))
    found = {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}
    return {name: of[:count] if len(of) == size * len(parts) else of for name, of in found.items()}


def check_feeds(inputs: tuple[TensorInfo, ...], feeds: Arrays) -> None:
    """Raise ValueError unless `feeds` has exactly the inputs, in their dtype and shape."""
    if set(feeds) != {info.name for info in inputs}:
        raise ValueError(f"inputs are {[info.name for info in inputs]}, got {sorted(feeds)}")
    for info in inputs:
        array = feeds[info.name]
        if array.dtype != np.dtype(info.dtype):
            raise ValueError(f"input {info.name} is {info.dtype}, got {array.dtype}")
        fits = array.ndim == len(info.shape) and all(
            want is None or want == got for want, got in zip(info.shape, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"input {info.name} has shape {info.shape}, got {array.shape}")
