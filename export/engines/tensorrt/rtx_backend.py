"""TensorRT-RTX: engines for RTX GPUs, built ahead of time on any x86 Linux machine, with or without a GPU.

The libraries come with ONNX Runtime's plugin package, the Python bindings with another; neither knows of the other.
"""

import ctypes
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

from calib.errors import InputError
from export.engines.tensorrt.build import BuildError, Messages, create_logger, finish_build, prepare_build
from export.engines.tensorrt.child_process import ChildDied, call_in_child
from export.engines.tensorrt.cuda_calls import check_gpu
from export.engines.tensorrt.options import BuildOptions
from export.engines.tensorrt.progress import Progress
from export.engines.tensorrt.runner import TensorRtRunner
from export.runner import Engine, RunOptions, Unavailable

_LIBRARY_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
_BINDINGS = "tensorrt-rtx-cu12-bindings"
# The bindings ask for both by the name inside the file, which the first call that loads them makes known.
_LIBRARIES = ("libtensorrt_rtx", "libtensorrt_onnxparser_rtx")
INSTALL = "pip install -e '.[host]' (x86 Linux only)"
INSTALL_ON_DEVICE = (
    "x86 Linux only: pip install tensorrt-rtx-cu12-bindings onnxruntime-ep-nv-tensorrt-rtx-cu12 cuda-bindings"
)


def version() -> str | None:
    """The installed TensorRT-RTX, None where it cannot be loaded."""
    try:
        return str(_load_module().__version__)
    except Unavailable:
        return None


def check_available_to_build() -> None:
    """Raise Unavailable where TensorRT-RTX is missing. A GPU is not needed."""
    _load_module()


def check_available_to_run() -> None:
    """Raise Unavailable where TensorRT-RTX, a GPU or its driver is missing."""
    _load_module()
    check_gpu()


def targets() -> tuple[str, ...]:
    """The GPU architectures that engines can be built for, such as `sm86`."""
    return _target_names(_load_module())


def build(
    onnx_path: Path, engine_path: Path, *, batch_sizes: tuple[int, int, int], target: str,
    options: BuildOptions | None = None, progress: Progress | None = None,
) -> Engine:  # fmt: skip
    """Build an engine for GPUs of architecture `target`, for batches from the first to the last of `batch_sizes`.

    `batch_sizes` are minimum, typical and maximum. Raises Unavailable, also for a precision that `target` lacks, or
    InputError for an ONNX that TensorRT-RTX cannot parse or build, and for options that only TensorRT has.
    """
    trt = _load_module()
    options, progress = options or BuildOptions(), progress or Progress()
    if target not in _target_names(trt):
        raise InputError(
            "TensorRT-RTX does not build for this target", got=target, allowed=", ".join(_target_names(trt)),
            next_step="edit targets in the recipe",
        )  # fmt: skip
    _check_options(options)
    # In a process of its own: after a build that failed, TensorRT-RTX 1.7.1 builds the next engine of the same process
    # for the failed one's target, and gives no error.
    try:
        return call_in_child(_build_here, (onnx_path, engine_path, batch_sizes, target, options), progress)
    except ChildDied as error:
        raise BuildError(f"TensorRT-RTX crashed while it built {onnx_path}", got=str(error)) from error


def _check_options(options: BuildOptions) -> None:
    if options.hardware != "this_gpu" or options.version_compatible:
        raise InputError(
            "tensorrt_rtx builds for a target, and has no hardware or version compatibility",
            got=f"hardware: {options.hardware}, version_compatible: {options.version_compatible}",
            allowed="targets: [sm86, …]", next_step="take them out of the recipe's build options",
        )  # fmt: skip
    if options.strip_weights:
        check_gpu()  # without one, 1.7.1 fails inside its graph compiler


def _build_here(
    onnx_path: Path, engine_path: Path, batch_sizes: tuple[int, int, int], target: str, options: BuildOptions,
    progress: Progress,
) -> Engine:  # fmt: skip
    trt = _load_module()
    capability = (int(target[2:-1]), int(target[-1]))
    prepared = prepare_build(trt, onnx_path, batch_sizes, options, capability)  # no timing cache: RTX has none
    config = prepared.config
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], 0):
        raise BuildError(f"TensorRT-RTX refuses the target {target}", got=prepared.reason())
    try:
        return finish_build(prepared, engine_path, progress)
    except BuildError as error:
        if target == "sm75" and "for Turing (SM75)" in prepared.messages.reason():
            raise Unavailable(f"sm75 lacks a type this network uses: {prepared.messages.reason()}") from error
        raise


def load(engine_path: Path, options: RunOptions | None = None, *, weights: Path | None = None) -> TensorRtRunner:
    """A runner of an engine. An engine is executable code: check where it comes from before loading it.

    `weights` is the ONNX of a weight-stripped engine. Raises Unavailable where this machine's GPU is not one that the
    engine was built for.
    """
    check_available_to_run()
    trt = _load_module()
    _check_made_for_this_gpu(trt, engine_path)
    return TensorRtRunner(trt, engine_path, options, weights=weights)


def _check_made_for_this_gpu(trt: Any, engine_path: Path) -> None:
    runtime = trt.Runtime(create_logger(trt, Messages()))
    _, problems = runtime.get_engine_validity(engine_path.read_bytes())
    if int(problems) & int(trt.EngineInvalidityDiagnostics.UNSUPPORTED_CC):
        raise Unavailable("this engine was built for another GPU architecture than this machine's")
    if int(problems) & int(trt.EngineInvalidityDiagnostics.OLD_CUDA_DRIVER):
        raise Unavailable("this engine needs a newer NVIDIA driver than this machine's")


def _target_names(trt: Any) -> tuple[str, ...]:
    return tuple(name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM"))


def _load_module() -> Any:
    """TensorRT-RTX's Python module, after its libraries. Loading them again is harmless."""
    package = importlib.util.find_spec(_LIBRARY_PACKAGE)  # found, not imported: its import changes the environment
    if package is None or package.origin is None or importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        raise Unavailable(f"TensorRT-RTX is not installed: {INSTALL}")
    bindings = metadata.version(_BINDINGS)
    release = ".".join(bindings.split(".")[:3])
    for stem in _LIBRARIES:
        library = Path(package.origin).with_name(f"{stem}.so.{release}")
        if not library.is_file():
            raise Unavailable(f"{_BINDINGS} {bindings} needs {library.name}, which {_LIBRARY_PACKAGE} does not have")
        # Not RTLD_GLOBAL: the functions in it have the names of TensorRT's own, which would then call these.
        _load_library(library)
    try:
        import tensorrt_rtx_bindings as trt
    except (ImportError, OSError) as error:
        raise Unavailable(f"TensorRT-RTX cannot be loaded: {error}") from error
    return trt


def _load_library(library: Path) -> None:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_LOCAL)
    except OSError as error:
        raise Unavailable(f"{library.name} cannot be loaded: {error}") from error
