"""What can be built: the backends, and one engine of a recipe."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from export.engines.tensorrt.options import BuildOptions

Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
OWN_GRAPHS: tuple[Backend, ...] = (
    "onnxruntime",
    "openvino",
)  # which read INT8 in a dialect: export/quantize/dialects.py


def graph_of(backend: str, precision: str) -> str:
    """The name of the graph that a backend's engine of a precision is built from, without `.onnx`.

    It is the precision's, `int8`, except where INT8 stands in FP32 on a backend that reads it in a dialect: `int8-openvino`.
    """
    quantized = precision == "auto" or (precision.startswith("int8") and not precision.endswith("-fp16"))
    return f"{precision}-{backend}" if quantized and backend in OWN_GRAPHS else precision


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
