"""What both backends of PyTorch share: its version, where it computes, and a runner. PyTorch is imported inside functions."""

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.runner import Arrays, TensorInfo, Unavailable, check_feeds, in_fixed_batches

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

INSTALL = "make setup"
INSTALL_ON_DEVICE = "its engines are for machines with a checkout and PyTorch"
Compute = Callable[["Tensor"], Sequence["Tensor"]]


def version() -> str | None:
    """The installed PyTorch as it calls itself, `2.12.1+cu130`, None without one. It is not imported, which takes seconds."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    told = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
    match = re.search(r"^__version__ = '(.+)'$", told, re.MULTILINE)
    return None if match is None else match[1]


def check_available_to_run() -> None:
    """Raise Unavailable where PyTorch is not installed."""
    if version() is None:
        raise Unavailable(f"PyTorch is not installed: {INSTALL}")


def device_here() -> str:
    """`cuda` where PyTorch has a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def describe_graph(
    proto: "onnx.ModelProto", batch: int | None
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs of a graph as a program for `batch` images has them, None for any number."""
    from onnx.helper import tensor_dtype_to_np_dtype

    first = proto.graph.input[0].type.tensor_type.shape.dim[0]
    own = first.dim_value or None

    def info(value: "onnx.ValueInfoProto") -> TensorInfo:
        of = value.type.tensor_type
        shape = tuple(
            (own or batch) if place == 0 and dim.dim_param == first.dim_param and dim.dim_value == first.dim_value
            else dim.dim_value or None
            for place, dim in enumerate(of.shape.dim)
        )  # fmt: skip
        return TensorInfo(value.name, shape, tensor_dtype_to_np_dtype(of.elem_type).name)

    return tuple(info(value) for value in proto.graph.input), tuple(info(value) for value in proto.graph.output)


class TorchRunner:
    """Runs a function of PyTorch that takes images and gives the outputs; see `export.runner.Runner`.

    RuntimeError where PyTorch fails.
    """

    def __init__(
        self, compute: Compute, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...], device: str, threads: int
    ):  # fmt: skip
        self._compute: Compute | None = compute
        self._device, self._threads = device, threads
        self.inputs, self.outputs = inputs, outputs

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self._device != "cpu"

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        return in_fixed_batches(self.inputs, feeds, self._run)

    def _run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        import torch

        check_feeds(self.inputs, feeds)
        assert self._compute is not None, "it was closed"
        images = np.ascontiguousarray(feeds[self.inputs[0].name])
        if not images.flags.writeable:  # PyTorch would warn, though nothing writes
            images = images.copy()
        with threads_of(self._threads), torch.inference_mode():
            found = self._compute(torch.from_numpy(images).to(self._device))
            arrays = [value.cpu().numpy() for value in found]
        return {info.name: array for info, array in zip(self.outputs, arrays, strict=True)}

    def __enter__(self) -> "TorchRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._compute = None  # its weights are freed


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """PyTorch computes on `count` CPU threads inside; the number is one for the whole process, so it is put back."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
