"""One line of work on the GPU: a stream with its pinned and device memory, and a CUDA graph for every batch size.

Inputs lie behind one another in one pinned block, outputs in another, each with its twin on the device: one copy in and
one out, however many tensors an engine has. TensorRT's guide asks for one execution context per captured graph, so
every batch size has its own; they share the activation memory, because a stream runs one at a time.
"""

import ctypes
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from export.engines.tensorrt.build import Messages
from export.engines.tensorrt.cuda_calls import Cuda
from export.engines.tensorrt.cuda_graph import capture
from export.runner import Arrays, DeviceTimes, RunOptions, TensorInfo

_ALIGNMENT = 256  # bytes, as cudaMalloc aligns and TensorRT asks for
_SIZES_KEPT = 8  # contexts and graphs; the one unused longest goes


@dataclass(frozen=True)
class _Tensor:
    """A tensor of one batch size and its place in the block of inputs or outputs."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True)
class _Block:
    """Pinned host memory and as much device memory."""

    host: int
    device: int


@dataclass(frozen=True)
class _Prepared:
    """What running one batch size takes; without a `graph`, `plain` says why."""

    context: Any
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]
    graph: Any | None
    plain: str


def read_tensors(trt: Any, engine: Any) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs of an engine, in its order. InputError for one that is not in device memory."""
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise _depends_on_data(name, "a tensor in host memory")
        shape = tuple(None if size == -1 else size for size in tuple(engine.get_tensor_shape(name)))
        info = TensorInfo(name, shape, np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name)
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(info)
    return tuple(inputs), tuple(outputs)


def _depends_on_data(name: str, got: object) -> InputError:
    return InputError(
        f"tensor {name} of the engine has a shape that depends on data", got=got,
        allowed="inputs and outputs whose shape follows from the batch size", next_step="t2t-edge export",
    )  # fmt: skip


class Lane:
    """Runs batches one after the other: `submit`, then `collect`. Frees everything when `stack` is closed.

    Raises CudaError where a CUDA call fails, RuntimeError where TensorRT does.
    """

    def __init__(
        self, trt: Any, engine: Any, cuda: Cuda, options: RunOptions, messages: Messages, stack: ExitStack
    ) -> None:
        self._trt, self._engine, self._cuda, self._options, self._messages = trt, engine, cuda, options, messages
        self._inputs, self._outputs = read_tensors(trt, engine)
        self.busy: _Prepared | None = None
        free = cuda.free_memory()
        self._sizes: dict[tuple[tuple[int, ...], ...], _Prepared] = {}
        self._stream = cuda.create_stream()
        stack.callback(lambda: cuda.destroy_stream(self._stream))
        self._events = [self._reserve_event(stack) for _ in range(4)]  # start, copied in, computed, copied out
        inputs, outputs = self._place(self._shaped_context(self._largest_shapes()))
        self._in, self._out = self._reserve_block(inputs, stack), self._reserve_block(outputs, stack)
        self._scratch_bytes = int(engine.device_memory_size_v2)
        self._scratch = self._reserve_device(max(self._scratch_bytes, 1), stack)
        stack.callback(self._close)
        self.taken_bytes = free - cuda.free_memory()

    def submit(self, feeds: Arrays) -> None:
        """Queue one batch: copy in, compute, copy out. `feeds` are free again on return."""
        assert self.busy is None, "collect comes before the next submit"
        prepared = self._for_shapes(tuple(feeds[info.name].shape for info in self._inputs))
        self._messages.errors.clear()
        cuda, stream, (start, copied, computed, done) = self._cuda, self._stream, self._events
        for placed in prepared.inputs:
            np.copyto(_view(placed, self._in), feeds[placed.name])
        cuda.record(start, stream)
        cuda.copy_in(self._in.device, self._in.host, _end(prepared.inputs), stream)
        cuda.record(copied, stream)
        if prepared.graph is None:
            self._enqueue(prepared.context)
        else:
            cuda.launch(prepared.graph, stream)
        cuda.record(computed, stream)
        cuda.copy_out(self._out.host, self._out.device, _end(prepared.outputs), stream)
        cuda.record(done, stream)
        self.busy = prepared

    def collect(self) -> dict[str, NDArray[Any]]:
        """Wait for the batch and return its outputs, the caller's to keep."""
        assert self.busy is not None, "nothing was submitted"
        prepared, self.busy = self.busy, None
        self._cuda.wait(self._events[3])
        return {placed.name: _view(placed, self._out).copy() for placed in prepared.outputs}

    def times(self) -> DeviceTimes:
        """Of the batch collected last, by CUDA events."""
        start, copied, computed, done = self._events
        elapsed = self._cuda.elapsed_ms
        return DeviceTimes(elapsed(start, copied), elapsed(copied, computed), elapsed(computed, done))

    def graphs(self) -> dict[int, str]:
        """Batch size → "" where it runs as a CUDA graph, or why it does not."""
        return {prepared.inputs[0].shape[0]: prepared.plain for prepared in self._sizes.values()}

    def _for_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> _Prepared:
        prepared = self._sizes.pop(shapes, None)
        if prepared is None:  # asking CUDA for its free memory is slow: here, and not at every call
            free = self._cuda.free_memory()
            prepared = self._prepare(shapes)
            self.taken_bytes += free - self._cuda.free_memory()
        self._sizes[shapes] = prepared  # last: the one used most recently
        if len(self._sizes) > _SIZES_KEPT:
            self._drop(next(iter(self._sizes)))
        return prepared

    def _prepare(self, shapes: tuple[tuple[int, ...], ...]) -> _Prepared:
        """A context for these input shapes, its first run, and its graph."""
        context = self._shaped_context(shapes)
        inputs, outputs = self._place(context)
        for tensors, block in ((inputs, self._in), (outputs, self._out)):
            for placed in tensors:
                if not context.set_tensor_address(placed.name, block.device + placed.offset):
                    raise RuntimeError(f"TensorRT refuses the memory of {placed.name}: {self._messages.reason()}")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        # TensorRT finishes what a new shape takes in the first run, which therefore cannot be captured.
        self._enqueue(context)
        self._cuda.synchronize(self._stream)
        graph, plain = self._capture(context)
        return _Prepared(context, inputs, outputs, graph, plain)

    def _shaped_context(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise RuntimeError(f"TensorRT gives no execution context: {self._messages.reason()}")
        for info, shape in zip(self._inputs, shapes, strict=True):
            if not context.set_input_shape(info.name, shape):
                low, _, high = (tuple(limit) for limit in self._engine.get_tensor_profile_shape(info.name, 0))
                raise ValueError(f"input {info.name} takes shapes from {low} to {high}, got {shape}")
        return context

    def _largest_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(self._engine.get_tensor_profile_shape(info.name, 0)[2]) for info in self._inputs)

    def _place(self, context: Any) -> tuple[tuple[_Tensor, ...], tuple[_Tensor, ...]]:
        """Inputs and outputs of a context whose input shapes are set, behind one another."""
        placed: list[tuple[_Tensor, ...]] = []
        for group in (self._inputs, self._outputs):
            offset, tensors = 0, []
            for info in group:
                shape = tuple(context.get_tensor_shape(info.name))
                if -1 in shape:
                    raise _depends_on_data(info.name, shape)
                tensors.append(_Tensor(info.name, shape, np.dtype(info.dtype), offset))
                offset = _aligned(_end(tuple(tensors)))
            placed.append(tuple(tensors))
        return placed[0], placed[1]

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(int(self._stream)):
            raise RuntimeError(f"TensorRT could not run the engine: {self._messages.reason()}")

    def _capture(self, context: Any) -> tuple[Any | None, str]:
        """The graph of one run, or None and why there is none: then the engine is queued call by call."""
        if not self._options.cuda_graph:
            return None, "switched off"
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(self._stream)):
            return None, "TensorRT cannot capture this engine"
        found = capture(self._cuda, self._stream, lambda: self._enqueue(context))
        self._messages.errors.clear()  # a capture that failed is no error of the run
        return found

    def _reserve_event(self, stack: ExitStack) -> Any:
        event = self._cuda.create_event(blocking=not self._options.spin)
        stack.callback(lambda: self._cuda.destroy_event(event))
        return event

    def _reserve_block(self, tensors: tuple[_Tensor, ...], stack: ExitStack) -> _Block:
        nbytes = max(_end(tensors), 1)
        host = self._cuda.allocate_pinned(nbytes)
        stack.callback(lambda: self._cuda.free_pinned(host))
        return _Block(host, self._reserve_device(nbytes, stack))

    def _reserve_device(self, nbytes: int, stack: ExitStack) -> int:
        address = self._cuda.allocate(nbytes)
        stack.callback(lambda: self._cuda.free(address))
        return address

    def _drop(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        prepared = self._sizes.pop(shapes)
        if prepared.graph is not None:
            self._cuda.destroy_executable(prepared.graph)

    def _close(self) -> None:
        """Nothing may be under way when memory goes."""
        self.busy = None
        try:
            self._cuda.synchronize(self._stream)
        finally:
            with ExitStack() as stack:  # all of them, also where one fails
                for shapes in list(self._sizes):
                    stack.callback(self._drop, shapes)
            self._engine = None


def _end(tensors: tuple[_Tensor, ...]) -> int:
    """Bytes up to the end of the last one: what a copy of all of them moves."""
    return tensors[-1].offset + tensors[-1].nbytes if tensors else 0


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _view(placed: _Tensor, block: _Block) -> NDArray[Any]:
    """The tensor's numbers in pinned memory."""
    memory = (ctypes.c_uint8 * placed.nbytes).from_address(block.host + placed.offset)
    return np.frombuffer(memoryview(memory), placed.dtype).reshape(placed.shape)
