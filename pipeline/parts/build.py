"""`build`: the engines."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from export.engines.spec import Backend, why_not
from pipeline.parts.part import Part, Positive, Precision


class BuildOptionsPart(Part):
    """How TensorRT builds; docs/tensorrt.md has the reason for each."""

    workspace_mib: Annotated[int, Field(ge=16)] = 1024
    """Scratch memory that the builder may use."""
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    """How long the builder looks for faster kernels."""
    timing_cache: bool = True
    """Keep what was timed for the next build."""
    hardware: Literal["this_gpu", "same_compute_capability", "ampere_plus"] = "this_gpu"
    """Which GPUs the engine is for."""
    version_compatible: bool = False
    """Whether later versions of TensorRT run it."""
    strip_weights: bool = False
    """Leave the weights out of the engine; they lie beside it."""


class EnginePart(Part):
    """Engines of one backend: a precision each, for `tensorrt_rtx` times a target (`sm86`) each."""

    backend: Backend
    """onnxruntime and openvino: CPU. executorch: phones, also run here. inductor: PyTorch compiled for this machine's GPU or CPU.
    pytorch: PyTorch as it is, the baseline. tensorrt: built on its GPU. tensorrt_rtx: built anywhere, for RTX GPUs."""
    precisions: tuple[Precision, ...]
    """An engine each; they must be among quantize.precisions."""
    targets: tuple[Annotated[str, Field(pattern=r"^sm\d{2,3}$")], ...] = ()
    """GPU architectures such as sm86, for tensorrt_rtx alone: an engine each."""
    batch_sizes: tuple[Positive, Positive, Positive] = (1, 1, 8)
    """Minimum, typical and maximum of a TensorRT optimization profile; inductor on a CPU is for the typical one alone."""
    options: BuildOptionsPart = BuildOptionsPart()
    """Of the TensorRT backends alone: docs/tensorrt.md."""

    @model_validator(mode="after")
    def _targets(self) -> "EnginePart":
        if (self.backend == "tensorrt_rtx") != bool(self.targets):
            raise ValueError("targets go with backend tensorrt_rtx, and it needs at least one, such as sm86")
        if reasons := [reason for name in self.precisions if (reason := why_not(self.backend, name))]:
            raise ValueError(reasons[0])
        if "tensorrt" not in self.backend and self.options != BuildOptionsPart():
            raise ValueError(f"options are TensorRT's: {self.backend} has none")
        if self.backend == "tensorrt_rtx" and (self.options.hardware != "this_gpu" or self.options.version_compatible):
            raise ValueError("hardware and version_compatible go with tensorrt: tensorrt_rtx builds for its targets")
        low, typical, high = self.batch_sizes
        if not low <= typical <= high:
            raise ValueError("batch_sizes are minimum, typical and maximum, in rising order")
        return self
