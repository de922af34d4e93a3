"""The engines that this machine can build, as `build` of a recipe."""

from dataclasses import dataclass

from export.cpu import bf16_instructions, int8_instructions
from export.engines.engine import unavailable
from export.engines.pytorch.inductor_backend import gpu_capability
from export.engines.spec import BACKENDS, ON_REQUEST, Backend
from export.engines.tensorrt.cuda_device import compute_capability
from export.runner import Unavailable
from pipeline.machine.describe import gpu_name
from pipeline.parts.part import Precision

_ELSEWHERE = ("sm86", "sm89")  # without a GPU here: RTX 30 and RTX 40


@dataclass(frozen=True)
class Engines:
    """Engines of one backend, as a recipe names them."""

    backend: Backend
    precisions: tuple[Precision, ...]
    targets: tuple[str, ...] = ()


def engines_here() -> tuple[list[Engines], dict[str, str]]:
    """What can be built here, and why the other backends cannot. Engines for phones are for who asks for them, and PyTorch's own
    are offered where it has a GPU that TensorRT does not reach."""
    offered = [backend for backend in BACKENDS if backend not in ON_REQUEST]
    missing = unavailable(offered, "build")
    alone = "tensorrt" in missing and gpu_name() is not None and gpu_capability() is not None
    if alone and not unavailable(["inductor"], "build"):
        offered += ["inductor", "pytorch"]
    return [_engines(backend) for backend in offered if backend not in missing], missing


def _engines(backend: Backend) -> Engines:
    if backend == "tensorrt_rtx":
        return Engines(backend, ("fp16", "int8-fp16"), _targets())
    if backend == "tensorrt":
        return Engines(backend, ("fp16", "int8-fp16"))
    if backend == "inductor":
        return Engines(backend, ("fp32", "fp16", "int8"))
    if backend == "pytorch":
        return Engines(backend, ("fp32",))
    if backend == "openvino" and bf16_instructions():
        return Engines(backend, ("fp32", "bf16", "int8"))
    return Engines(backend, ("fp32", "int8"))


def _targets() -> tuple[str, ...]:
    """The GPU's own architecture; without a GPU, those of usual RTX GPUs."""
    try:
        return (f"sm{compute_capability().replace('.', '')}",)
    except Unavailable:
        return _ELSEWHERE


def why_these(built: list[Engines], missing: dict[str, str]) -> list[str]:
    """A line for what is built, and one for each backend that is not."""
    lines = ["; ".join(f"{one.backend} {', '.join(one.precisions)}" for one in built)]
    if not int8_instructions():
        lines.append("this CPU has no INT8 instructions: INT8 will be hardly faster than FP32 here")
    if any(one.targets == _ELSEWHERE for one in built):
        lines.append(f"tensorrt_rtx for {' and '.join(_ELSEWHERE)}, to run elsewhere: there is no GPU here")
    return [*lines, *(f"not {backend}: {reason}" for backend, reason in missing.items())]
