"""What can be built: the backends, and one engine of a recipe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from export.engines.tensorrt.options import BuildOptions

Backend = Literal["onnxruntime", "openvino", "executorch", "inductor", "pytorch", "tensorrt", "tensorrt_rtx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
CPU_BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino", "executorch")  # engines are made and run on any machine
PHONE_BACKENDS: tuple[Backend, ...] = ("executorch",)
TORCH_BACKENDS: tuple[Backend, ...] = ("inductor", "pytorch")  # run by PyTorch, which no device has
# Only where a recipe names them: slow to build, for elsewhere, or no engine that anybody would ship.
ON_REQUEST: tuple[Backend, ...] = (*PHONE_BACKENDS, *TORCH_BACKENDS)
# Those that read INT8 in a dialect of their own: export/quantize/dialects.py.
OWN_GRAPHS: tuple[Backend, ...] = ("onnxruntime", "openvino", "executorch", "inductor")
_BF16: tuple[Backend, ...] = ("openvino", "inductor")  # whose engines compute in BF16 what a graph has in FP32


def graph_of(backend: str, precision: str) -> str:
    """The name of the graph that a backend's engine of a precision is built from, without `.onnx`.

    It is the precision's, `int8`, except where INT8 stands in FP32 on a backend that reads it in a dialect: `int8-openvino`.
    An engine in BF16 is built from the graph with FP32 in its place.
    """
    precision = "fp32" if precision == "bf16" else precision.removesuffix("-bf16")
    quantized = precision == "auto" or (precision.startswith("int8") and not precision.endswith("-fp16"))
    return f"{precision}-{backend}" if quantized and backend in OWN_GRAPHS else precision


def written_graphs(build: Iterable[Mapping[str, Any]]) -> tuple[Backend, ...]:
    """The backends whose dialects are written for the engines of a recipe's `build`: some only where it names them with INT8."""
    asked = {part["backend"] for part in build if any(graph_of(part["backend"], of) != of for of in part["precisions"])}
    return tuple(name for name in OWN_GRAPHS if name not in ON_REQUEST or name in asked)


def in_bf16(precision: str) -> bool:
    """Whether an engine of this precision computes in BF16 what its graph leaves in floating point."""
    return precision.endswith("bf16")


def why_not(backend: str, precision: str) -> str:
    """Why a backend has no engines of a precision; "" where it has."""
    if backend == "pytorch" and precision != "fp32":
        return f"{precision} does not go with pytorch: it is the baseline, PyTorch in FP32 as everybody runs it"
    if precision.startswith("fp8") and "tensorrt" not in backend:
        return "fp8 goes with tensorrt and tensorrt_rtx: other engines have no FP8 kernels"
    if backend in PHONE_BACKENDS and ("fp16" in precision or in_bf16(precision)):
        return f"{precision} does not go with {backend}: its engines are in FP32, and in INT8 with FP32 around it"
    if in_bf16(precision) and backend not in _BF16:
        return f"{precision} goes with openvino and inductor: {backend} has no engines that compute in it"
    return ""


@dataclass(frozen=True)
class EngineSpec:
    """What to build: `target` is a GPU architecture (`sm86`) for `tensorrt_rtx`, None elsewhere."""

    backend: str
    precision: str
    target: str | None
    batch_sizes: tuple[int, int, int]
    options: BuildOptions = field(default_factory=BuildOptions)  # of the TensorRT backends

    @property
    def build_options(self) -> BuildOptions | None:
        """The options it is built with, None of other backends than TensorRT's; sparse precisions add theirs."""
        if "tensorrt" not in self.backend:
            return None
        return replace(self.options, sparse_weights="sparse" in self.precision)

    @property
    def graph(self) -> str:
        """The name of the graph that it is built from, without `.onnx`."""
        return graph_of(self.backend, self.precision)

    @property
    def name(self) -> str:
        """`openvino-int8`, `tensorrt_rtx-int8-fp16-sm86`: also the name of its folder."""
        return "-".join(part for part in (self.backend, self.precision, self.target) if part)
