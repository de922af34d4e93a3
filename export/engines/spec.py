"""What can be built: the backends, and one engine of a recipe."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from export.engines.tensorrt.options import BuildOptions

Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


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
    def name(self) -> str:
        """`openvino-int8`, `tensorrt_rtx-int8-fp16-sm86`: also the name of its folder."""
        return "-".join(part for part in (self.backend, self.precision, self.target) if part)
