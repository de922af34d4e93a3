"""How an engine is built, beside its precision and batch sizes, and how this is passed to a builder."""

from dataclasses import dataclass
from typing import Any, Literal

from export.runner import Unavailable

LEVELS = range(6)  # TensorRT-RTX accepts any number silently, so the range is checked here
Hardware = Literal["this_gpu", "same_compute_capability", "ampere_plus"]


@dataclass(frozen=True)
class BuildOptions:
    """Keys of the recipe's `build[].options`; docs/tensorrt.md has the reason for each.

    `workspace_mib`: scratch memory a layer may ask for. `optimization_level`: 0 (fast build) to 5 (fast engine).
    `timing_cache`: keep measured kernel times for the next build. `hardware`: which GPUs the engine is for.
    `version_compatible`: for later releases of the same major version, too. `strip_weights`: without the weights, which
    loading takes from the ONNX. `sparse_weights`: look for kernels for 2:4 sparse weights.
    """

    # Enough for any layer of a ViT, and small enough to leave room on a Jetson, whose memory the CPU shares.
    workspace_mib: int = 1024
    optimization_level: int = 3
    timing_cache: bool = True
    hardware: Hardware = "this_gpu"
    version_compatible: bool = False
    strip_weights: bool = False
    sparse_weights: bool = False


def apply_options(trt: Any, config: Any, options: BuildOptions) -> None:
    """Set `options` on a builder's configuration. Raises Unavailable for what this release does not have."""
    assert options.optimization_level in LEVELS, options
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.sparse_weights:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.strip_weights:
        # Refit with the very weights it was built with: the kernels may rely on them.
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if options.hardware == "ampere_plus":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.hardware == "same_compute_capability":
        if not hasattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"):
            raise Unavailable(
                f"hardware: same_compute_capability needs a newer TensorRT than {trt.__version__} "
                "(10.16 has it, 10.3 does not): hardware: ampere_plus, or leave it out"
            )
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
