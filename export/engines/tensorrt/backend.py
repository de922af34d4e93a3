"""TensorRT 10.3 … 11.x: engines for the NVIDIA GPU or Jetson they are built on."""

from pathlib import Path

from export.engines.tensorrt.build import finish_build, prepare_build
from export.engines.tensorrt.cuda_calls import Cuda, check_gpu
from export.engines.tensorrt.options import BuildOptions
from export.engines.tensorrt.progress import Progress
from export.engines.tensorrt.runner import TensorRtRunner
from export.engines.tensorrt.timing_cache import attach_cache, cache_path, save_cache
from export.runner import Engine, RunOptions, Unavailable

OLDEST = (10, 3)
_JETSON = "on a Jetson: sudo apt-get install python3-libnvinfer && pip install cuda-bindings"
INSTALL = f"pip install -e '.[tensorrt]' ({_JETSON})"
INSTALL_ON_DEVICE = f"{_JETSON}; elsewhere: pip install tensorrt cuda-bindings"


def version() -> str | None:
    """The installed TensorRT, None where it cannot be imported."""
    try:
        import tensorrt as trt
    except (ImportError, OSError):  # OSError: the Python package is here, its libraries are not
        return None
    return str(trt.__version__)


def check_available_to_build() -> None:
    """Raise Unavailable where TensorRT, a GPU or its driver is missing: TensorRT times kernels on the GPU to build."""
    try:
        import tensorrt as trt
    except ImportError as error:
        raise Unavailable(f"TensorRT is not installed: {INSTALL}") from error
    except OSError as error:
        raise Unavailable(f"TensorRT's libraries cannot be loaded: {error}") from error
    found = str(trt.__version__)
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise Unavailable(f"TensorRT {found} is too old: 10.3 or newer is needed")
    check_gpu()


def check_available_to_run() -> None:
    """Raise Unavailable where TensorRT, a GPU or its driver is missing."""
    check_available_to_build()


def build(
    onnx_path: Path, engine_path: Path, *, batch_sizes: tuple[int, int, int], options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> Engine:  # fmt: skip
    """Build an engine for this machine's GPU, for batches from the first to the last of `batch_sizes`.

    `batch_sizes` are minimum, typical (the one TensorRT tunes for) and maximum. Raises Unavailable, also for FP8 on a GPU
    without it, or InputError for an ONNX that TensorRT cannot parse or build.
    """
    check_available_to_build()
    import tensorrt as trt

    options, progress, cuda = options or BuildOptions(), progress or Progress(), Cuda()
    major, minor = cuda.compute_capability()
    prepared = prepare_build(trt, onnx_path, batch_sizes, options, (major, minor))
    if not options.timing_cache:
        return finish_build(prepared, engine_path, progress)
    path = cache_path("tensorrt", str(trt.__version__), f"{cuda.gpu_name()} sm{major}{minor}")
    attach_cache(prepared.config, path, progress)
    engine = finish_build(prepared, engine_path, progress)
    save_cache(prepared.config, path, progress)
    return engine


def load(
    engine_path: Path, options: RunOptions | None = None, *, weights: Path | None = None, host_code: bool = False
) -> TensorRtRunner:
    """A runner of an engine. An engine is executable code: check where it comes from before loading it.

    `weights` is the ONNX of a weight-stripped engine; `host_code` allows a version-compatible one to bring its own code.
    """
    check_available_to_run()
    import tensorrt as trt

    return TensorRtRunner(trt, engine_path, options, weights=weights, host_code=host_code)
