"""Record what one run queues on a stream as a CUDA graph: launched as one, it costs the CPU one call for all kernels."""

from collections.abc import Callable
from typing import Any

from export.engines.tensorrt.cuda_calls import Cuda, CudaError


def capture(cuda: Cuda, stream: Any, enqueue: Callable[[], None]) -> tuple[Any | None, str]:
    """What `launch` takes, tried once, and ""; or None and why there is none, the stream being as before.

    `enqueue` queues the run and raises RuntimeError where it cannot.
    """
    try:
        graph = _recorded(cuda, stream, enqueue)
        try:
            executable = cuda.instantiate(graph)
        finally:
            cuda.destroy_graph(graph)
        return _tried(cuda, stream, executable), ""
    except RuntimeError as error:  # CudaError, too
        cuda.forget_error()
        return None, " ".join(str(error).split())


def _recorded(cuda: Cuda, stream: Any, enqueue: Callable[[], None]) -> Any:
    cuda.begin_capture(stream)
    try:
        enqueue()
    except RuntimeError:
        _leave(cuda, stream)
        raise
    return cuda.end_capture(stream)


def _leave(cuda: Cuda, stream: Any) -> None:
    """Back to running; the error to be told is the one that spoilt the capture, not this one's."""
    try:
        unfinished = cuda.end_capture(stream)
    except CudaError:
        return
    cuda.destroy_graph(unfinished)


def _tried(cuda: Cuda, stream: Any, executable: Any) -> Any:
    try:
        cuda.launch(executable, stream)
        cuda.synchronize(stream)
    except CudaError:
        cuda.destroy_executable(executable)
        raise
    return executable
