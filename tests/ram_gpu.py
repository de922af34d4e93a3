"""A stand-in for the GPU that keeps device memory in RAM, and a TensorRT whose engine adds up pixels.

It is as strict as CUDA where that matters: copies stay inside what was allocated, nothing is freed twice, what is queued
while a stream captures is recorded and not run, and every call can be made to fail.
"""

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

Work = tuple[Callable[[], None], tuple[int, ...]]  # and the memory it uses
MODES = SimpleNamespace(INPUT=1, OUTPUT=2)


class RamGpu:
    """CUDA's calls over RAM. `fail["cudaMalloc"] = 1` lets one call succeed and makes those after it fail."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.success, self.broken = cuda.cudaError_t.cudaSuccess, cuda.cudaError_t.cudaErrorUnknown
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.memory: dict[str, dict[int, Any]] = {"device": {}, "pinned": {}}
        self.handles: dict[str, set[int]] = {"stream": set(), "event": set(), "graph": set(), "executable": set()}
        self.recorded: list[Work] | None = None  # while a stream captures
        self.graphs: dict[int, list[Work]] = {}
        self.moments: dict[int, float] = {}
        self.clock = 0.0
        self.spoilt = False
        self.counter = 100

    def functions(self) -> dict[str, Callable[..., Any]]:
        """By CUDA's names, each wrapped so that it may fail."""
        plain: dict[str, Callable[..., Any]] = {
            "cudaMalloc": lambda size: self._allocate("device", size),
            "cudaHostAlloc": lambda size, flags: self._allocate("pinned", size),
            "cudaFree": lambda address: self._free("device", address),
            "cudaFreeHost": lambda address: self._free("pinned", address),
            "cudaMemGetInfo": lambda: (10**9 - sum(map(len, self.memory["device"].values())), 10**9),
            "cudaMemcpyAsync": self._copy,
            "cudaStreamCreateWithFlags": lambda flags: self._create("stream"),
            "cudaStreamDestroy": lambda stream: self._destroy("stream", stream),
            "cudaStreamSynchronize": lambda stream: self._use("stream", stream),
            "cudaEventCreateWithFlags": lambda flags: self._create("event"),
            "cudaEventDestroy": lambda event: self._destroy("event", event),
            "cudaEventRecord": self._record,
            "cudaEventSynchronize": lambda event: self._use("event", event),
            "cudaEventElapsedTime": lambda start, end: self.moments[end] - self.moments[start],
            "cudaStreamBeginCapture": self._begin,
            "cudaStreamEndCapture": self._end,
            "cudaGraphInstantiate": self._instantiate,
            "cudaGraphDestroy": lambda graph: self._destroy("graph", graph),
            "cudaGraphExecDestroy": lambda executable: self._destroy("executable", executable),
            "cudaGraphLaunch": self._launch,
            "cudaGetLastError": lambda: None,
        }
        return {name: self._may_fail(name, function) for name, function in plain.items()}

    def is_empty(self) -> bool:
        return not any((*self.memory.values(), *self.handles.values()))

    def queue(self, work: Callable[[], None], *addresses: int) -> None:
        """Run `work` as a kernel would be: now, or when the graph that is being captured is launched."""
        if self.recorded is None:
            work()
        else:
            self.recorded.append((work, addresses))

    def _may_fail(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            left = self.fail.get(name)
            if left == 0:
                if name == "cudaStreamEndCapture":  # CUDA ends a capture also where it fails
                    self.recorded = None
                return (self.broken, None)
            if left is not None:
                self.fail[name] = left - 1
            self.clock += 1
            value = function(*arguments)
            if value is self.broken:
                return (self.broken, None)
            return (self.success, *value) if isinstance(value, tuple) else (self.success, value)

        return call

    def _next(self) -> int:
        self.counter += 1
        return self.counter

    def _allocate(self, kind: str, size: int) -> int:
        block = ctypes.create_string_buffer(size)
        self.memory[kind][ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _free(self, kind: str, address: int) -> None:
        end = address + len(self.memory[kind][address])
        for executable in self.handles["executable"]:
            used = {use for _, addresses in self.graphs[executable] for use in addresses}
            assert not any(address <= use < end for use in used), "a graph still uses this memory"
        del self.memory[kind][address]

    def _create(self, kind: str) -> int:
        handle = self._next()
        self.handles[kind].add(handle)
        return handle

    def _destroy(self, kind: str, handle: int) -> None:
        self.handles[kind].remove(handle)

    def _use(self, kind: str, handle: int) -> None:
        assert handle in self.handles[kind]
        assert self.recorded is None, "nothing may wait while a stream captures"

    def _record(self, event: int, stream: int) -> None:
        self._use("event", event)
        self.moments[event] = self.clock

    def _copy(self, target: int, source: int, size: int, kind: Any, stream: int) -> None:
        to_device = kind == self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        device, host = (target, source) if to_device else (source, target)
        assert size <= len(self.memory["device"][device]) and size <= len(self.memory["pinned"][host])
        assert stream in self.handles["stream"]
        self.queue(lambda: ctypes.memmove(target, source, size) and None, target, source)

    def _begin(self, stream: int, mode: Any) -> None:
        assert self.recorded is None and stream in self.handles["stream"]
        self.recorded = []

    def _end(self, stream: int) -> Any:
        assert self.recorded is not None
        recorded, self.recorded = self.recorded, None
        if self.spoilt:
            self.spoilt = False
            return self.broken
        graph = self._create("graph")
        self.graphs[graph] = recorded
        return graph

    def _instantiate(self, graph: int, flags: int) -> int:
        executable = self._create("executable")
        self.graphs[executable] = self.graphs[graph]
        return executable

    def _launch(self, executable: int, stream: int) -> None:
        assert executable in self.handles["executable"] and stream in self.handles["stream"]
        for work, _ in self.graphs[executable]:
            work()


class SumEngine:
    """images (1–4, 2, 3) uint8 and weights (2,) float32 → each image's sum, (batch,), and sum × weights, (batch, 2)."""

    num_io_tensors = 4
    device_memory_size_v2 = 512
    shapes = {"images": (-1, 2, 3), "weights": (2,), "sums": (-1,), "scaled": (-1, 2)}  # noqa: RUF012
    location = "device"

    def __init__(self, gpu: RamGpu) -> None:
        self.gpu = gpu
        self.contexts: list[SumContext] = []
        self.weights = 1  # what refitting changes: the sums are multiplied by it
        self.can_run = True
        self.can_capture = True

    def create_execution_context(self, strategy: str) -> "SumContext | None":
        assert strategy == "user managed"
        self.contexts.append(SumContext(self))
        return self.contexts[-1]

    def get_tensor_name(self, index: int) -> str:
        return ("sums", "images", "scaled", "weights")[index]

    def get_tensor_mode(self, name: str) -> int:
        return MODES.INPUT if name in ("images", "weights") else MODES.OUTPUT

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, 2, 3) for size in (1, 1, 4)] if name == "images" else [(2,)] * 3

    def get_tensor_dtype(self, name: str) -> type:
        return np.uint8 if name == "images" else np.float32

    def get_tensor_location(self, name: str) -> str:
        return self.location

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]


class SumContext:
    """One batch size of a SumEngine."""

    def __init__(self, engine: SumEngine) -> None:
        self.engine = engine
        self.batch, self.addresses, self.scratch = -1, dict[str, int](), (0, 0)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.batch if size == -1 else size for size in self.engine.shapes[name])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name == "weights":
            return shape == (2,)
        fits = 1 <= shape[0] <= 4 and shape[1:] == (2, 3)
        self.batch = shape[0] if fits else self.batch
        return fits

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 4 == 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size <= len(self.engine.gpu.memory["device"][memory])
        self.scratch = (memory, size)

    def execute_async_v3(self, stream: int) -> bool:
        gpu = self.engine.gpu
        assert stream in gpu.handles["stream"] and self.scratch[1] == self.engine.device_memory_size_v2
        if not self.engine.can_run or (gpu.recorded is not None and not self.engine.can_capture):
            gpu.spoilt = gpu.recorded is not None
            return False
        gpu.queue(self._compute, self.scratch[0], *self.addresses.values())
        return True

    def _compute(self) -> None:
        images = np.frombuffer(ctypes.string_at(self.addresses["images"], self.batch * 6), np.uint8)
        weights = np.frombuffer(ctypes.string_at(self.addresses["weights"], 8), np.float32)
        sums = images.reshape(self.batch, 6).sum(axis=1).astype(np.float32) * self.engine.weights
        scaled = np.ascontiguousarray(sums[:, None] * weights)
        ctypes.memmove(self.addresses["sums"], sums.ctypes.data, sums.nbytes)
        ctypes.memmove(self.addresses["scaled"], scaled.ctypes.data, scaled.nbytes)


def fake_tensorrt(engine: SumEngine | None) -> Any:
    """What the runner uses of TensorRT's module, around `engine`; None is an engine that TensorRT refuses."""

    class Logger:
        INTERNAL_ERROR, ERROR = 0, 1

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> SumEngine | None:
            if engine is None or (data == b"lean" and not self.engine_host_code_allowed):
                self.logger.log(Logger.ERROR, "built for\nanother GPU")
                return None
            return engine

    class Refitter:
        def __init__(self, refitted: SumEngine, logger: Any) -> None:
            self.refitted, self.found = refitted, 0

        def refit_cuda_engine(self) -> bool:
            self.refitted.weights = self.found
            return self.found > 0

        def get_missing_weights(self) -> list[str]:
            return [] if self.found else ["node_00003 kernel"]

    class OnnxParserRefitter:
        def __init__(self, refitter: Refitter, logger: Any) -> None:
            self.refitter = refitter

        def refit_from_file(self, path: str) -> bool:
            with open(path, encoding="ascii") as file:  # noqa: PTH123  # as TensorRT: a path of text
                self.refitter.found = int(file.read())
            return True

    return SimpleNamespace(
        ILogger=Logger, Runtime=Runtime, Refitter=Refitter, OnnxParserRefitter=OnnxParserRefitter, TensorIOMode=MODES,
        nptype=lambda dtype: dtype, TensorLocation=SimpleNamespace(DEVICE="device"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
    )  # fmt: skip
