"""Run a TensorRT or TensorRT-RTX engine on this machine's GPU, with CUDA memory from cuda-bindings: no torch."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from export.runner import Arrays, TensorInfo, Unavailable, check_feeds
from export.tensorrt_build import Messages, create_logger


class CudaError(RuntimeError):
    """A CUDA call failed: which one, and why."""


def check_gpu() -> None:
    """Raise Unavailable, with the reason, unless CUDA reaches a GPU here."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise Unavailable("cuda-bindings is not installed: pip install cuda-bindings") from error
    try:
        code, count = runtime.cudaGetDeviceCount()
    except RuntimeError as error:  # no libcuda on this machine; which calls need it differs by release
        raise Unavailable(f"there is no NVIDIA driver: {' '.join(str(error).split())}") from error
    if code == runtime.cudaError_t.cudaErrorInsufficientDriver:
        raise Unavailable("there is no NVIDIA driver, or it is too old for this cuda-bindings (CUDA 12: install 12.*)")
    if code == runtime.cudaError_t.cudaErrorNoDevice or (code == runtime.cudaError_t.cudaSuccess and count == 0):
        raise Unavailable("this machine has no NVIDIA GPU")
    if code != runtime.cudaError_t.cudaSuccess:
        raise Unavailable(f"CUDA cannot be used: {_error_text(runtime, code)}")


def _error_text(runtime: Any, code: Any) -> str:
    _, text = runtime.cudaGetErrorString(code)
    return text.decode() if isinstance(text, bytes) else str(text)


def _checked(runtime: Any, call: str, result: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, whose first result is its return code."""
    code, *values = result
    if code != runtime.cudaError_t.cudaSuccess:
        raise CudaError(f"{call}: {_error_text(runtime, code)}")
    return values[0] if values else None


@dataclass(frozen=True)
class _Buffer:
    """Device memory of one input or output, large enough for the engine's largest batch."""

    info: TensorInfo
    address: int
    nbytes: int


class TensorRtRunner:
    """Runs one engine, of either flavour; see `export.runner.Runner`. `trt` is the flavour's Python module.

    Raises InputError where TensorRT refuses the engine, CudaError where a CUDA call fails.
    """

    def __init__(self, trt: Any, engine_path: Path):
        from cuda.bindings import runtime as cuda

        self._trt, self._cuda = trt, cuda
        self._messages = Messages()
        with ExitStack() as stack:  # frees what was reserved if anything below fails
            self._runtime = trt.Runtime(create_logger(trt, self._messages))
            self._engine, self._context = self._load(engine_path)
            self._stream = self._reserve_stream(stack)
            self._inputs, self._outputs = self._reserve_buffers(stack)
            self._stack = stack.pop_all()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return tuple(buffer.info for buffer in self._inputs)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return tuple(buffer.info for buffer in self._outputs)

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run one batch: copy in, execute, copy out, wait. Any batch the optimization profile covers.

        Raises ValueError for feeds of another name, dtype or shape, or a batch outside the profile.
        """
        check_feeds(self.inputs, feeds)
        self._messages.errors.clear()
        # Named, because the copies read these arrays until the stream has been waited for.
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        for buffer in self._inputs:
            self._copy_in(buffer, arrays[buffer.info.name])
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeError(f"TensorRT could not run the engine: {self._messages.reason()}")
        results = {buffer.info.name: self._copy_out(buffer) for buffer in self._outputs}
        _checked(self._cuda, "cudaStreamSynchronize", self._cuda.cudaStreamSynchronize(self._stream))
        return results

    def __enter__(self) -> "TensorRtRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context = self._engine = self._runtime = None  # in this order: each lives in the next one's memory
        self._stack.close()

    def _load(self, engine_path: Path) -> tuple[Any, Any]:
        engine = self._runtime.deserialize_cuda_engine(engine_path.read_bytes())
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            raise InputError(
                f"TensorRT refuses the engine {engine_path}", got=self._messages.reason(),
                allowed="an engine built by this TensorRT for this GPU", next_step="t2t-edge build",
            )  # fmt: skip
        return engine, context

    def _reserve_stream(self, stack: ExitStack) -> Any:
        cuda = self._cuda
        stream = _checked(cuda, "cudaStreamCreate", cuda.cudaStreamCreate())
        stack.callback(lambda: _checked(cuda, "cudaStreamDestroy", cuda.cudaStreamDestroy(stream)))
        return stream

    def _reserve_buffers(self, stack: ExitStack) -> tuple[tuple[_Buffer, ...], tuple[_Buffer, ...]]:
        """Inputs first: the largest outputs are known only once every input has its largest shape."""
        engine, modes = self._engine, self._trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == modes.INPUT]
        for name in inputs:
            _, _, largest = engine.get_tensor_profile_shape(name, 0)
            self._set_shape(name, tuple(largest))
        outputs = [name for name in names if engine.get_tensor_mode(name) == modes.OUTPUT]
        reserved = [tuple(self._reserve(name, stack) for name in group) for group in (inputs, outputs)]
        return reserved[0], reserved[1]

    def _reserve(self, name: str, stack: ExitStack) -> _Buffer:
        trt, cuda, engine, context = self._trt, self._cuda, self._engine, self._context
        largest = tuple(context.get_tensor_shape(name))
        if -1 in largest or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise InputError(
                f"tensor {name} of the engine has a shape that depends on data", got=largest,
                allowed="inputs and outputs whose shape follows from the batch size", next_step="t2t-edge export",
            )  # fmt: skip
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        shape = tuple(None if size == -1 else size for size in tuple(engine.get_tensor_shape(name)))
        nbytes = int(np.prod(largest)) * dtype.itemsize
        address = int(_checked(cuda, f"cudaMalloc of {nbytes} bytes", cuda.cudaMalloc(nbytes)))
        stack.callback(lambda: _checked(cuda, "cudaFree", cuda.cudaFree(address)))
        if not context.set_tensor_address(name, address):
            raise RuntimeError(f"TensorRT refuses the memory of {name}: {self._messages.reason()}")
        return _Buffer(TensorInfo(name, shape, dtype.name), address, nbytes)

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            low, _, high = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))
            raise ValueError(f"input {name} takes shapes from {low} to {high}, got {shape}")

    def _copy_in(self, buffer: _Buffer, array: NDArray[Any]) -> None:
        cuda, name = self._cuda, buffer.info.name
        self._set_shape(name, array.shape)
        if array.nbytes > buffer.nbytes:
            raise ValueError(f"input {name} of {array.nbytes} bytes is larger than the engine's {buffer.nbytes}")
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        result = cuda.cudaMemcpyAsync(buffer.address, array.ctypes.data, array.nbytes, kind, self._stream)
        _checked(cuda, f"copying {name} to the GPU", result)

    def _copy_out(self, buffer: _Buffer) -> NDArray[Any]:
        """A new array, the caller's to keep; filled once the stream has been waited for."""
        cuda, name = self._cuda, buffer.info.name
        array = np.empty(tuple(self._context.get_tensor_shape(name)), dtype=buffer.info.dtype)
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        result = cuda.cudaMemcpyAsync(array.ctypes.data, buffer.address, array.nbytes, kind, self._stream)
        _checked(cuda, f"copying {name} from the GPU", result)
        return array
