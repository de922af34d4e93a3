"""The CUDA calls that running an engine takes, from cuda-bindings: a call that fails says which one it was, and why."""

from typing import Any

from export.runner import Unavailable


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


class Cuda:
    """CUDA's calls for memory, streams, events and graphs; addresses and handles are what cuda-bindings gives.

    Every method raises CudaError where its call fails.
    """

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._runtime = runtime

    def _checked(self, call: str, result: tuple[Any, ...]) -> Any:
        """The value of a CUDA call, whose first result is its return code."""
        code, *values = result
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise CudaError(f"{call}: {_error_text(self._runtime, code)}")
        return values[0] if values else None

    def compute_capability(self) -> tuple[int, int]:
        """(8, 7) on Orin."""
        runtime, found = self._runtime, []
        attributes = runtime.cudaDeviceAttr
        for attribute in (attributes.cudaDevAttrComputeCapabilityMajor, attributes.cudaDevAttrComputeCapabilityMinor):
            found.append(int(self._checked("cudaDeviceGetAttribute", runtime.cudaDeviceGetAttribute(attribute, 0))))
        return found[0], found[1]

    def gpu_name(self) -> str:
        """`NVIDIA GeForce RTX 4090`; on a Jetson `Orin`."""
        values = self._checked("cudaGetDeviceProperties", self._runtime.cudaGetDeviceProperties(0))
        name = values.name
        return name.decode() if isinstance(name, bytes) else str(name)

    def pci_bus_id(self) -> str:
        """`0000:01:00.0`: the one name of a GPU that CUDA_VISIBLE_DEVICES does not change."""
        identity = self._checked("cudaDeviceGetPCIBusId", self._runtime.cudaDeviceGetPCIBusId(32, 0))
        text = identity.decode() if isinstance(identity, bytes) else str(identity)
        return text.rstrip("\0")

    def free_memory(self) -> int:
        """Bytes of free device memory."""
        return int(self._checked("cudaMemGetInfo", self._runtime.cudaMemGetInfo()))

    def allocate(self, nbytes: int) -> int:
        """Address of new device memory."""
        return int(self._checked(f"cudaMalloc of {nbytes} bytes", self._runtime.cudaMalloc(nbytes)))

    def free(self, address: int) -> None:
        self._checked("cudaFree", self._runtime.cudaFree(address))

    def allocate_pinned(self, nbytes: int) -> int:
        """Address of new page-locked host memory, which the GPU copies from and to without the CPU."""
        flags = self._runtime.cudaHostAllocDefault
        return int(self._checked(f"cudaHostAlloc of {nbytes} bytes", self._runtime.cudaHostAlloc(nbytes, flags)))

    def free_pinned(self, address: int) -> None:
        self._checked("cudaFreeHost", self._runtime.cudaFreeHost(address))

    def create_stream(self) -> Any:
        """A stream that does not wait for the default one."""
        flags = self._runtime.cudaStreamNonBlocking
        return self._checked("cudaStreamCreateWithFlags", self._runtime.cudaStreamCreateWithFlags(flags))

    def destroy_stream(self, stream: Any) -> None:
        self._checked("cudaStreamDestroy", self._runtime.cudaStreamDestroy(stream))

    def synchronize(self, stream: Any) -> None:
        self._checked("cudaStreamSynchronize", self._runtime.cudaStreamSynchronize(stream))

    def create_event(self, *, blocking: bool) -> Any:
        """An event with a time; who waits for it sleeps (`blocking`) or spins."""
        flags = self._runtime.cudaEventBlockingSync if blocking else self._runtime.cudaEventDefault
        return self._checked("cudaEventCreateWithFlags", self._runtime.cudaEventCreateWithFlags(flags))

    def destroy_event(self, event: Any) -> None:
        self._checked("cudaEventDestroy", self._runtime.cudaEventDestroy(event))

    def record(self, event: Any, stream: Any) -> None:
        self._checked("cudaEventRecord", self._runtime.cudaEventRecord(event, stream))

    def wait(self, event: Any) -> None:
        self._checked("cudaEventSynchronize", self._runtime.cudaEventSynchronize(event))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have happened."""
        return float(self._checked("cudaEventElapsedTime", self._runtime.cudaEventElapsedTime(start, end)))

    def copy_in(self, device: int, host: int, nbytes: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        result = self._runtime.cudaMemcpyAsync(device, host, nbytes, kind, stream)
        self._checked("cudaMemcpyAsync to the GPU", result)

    def copy_out(self, host: int, device: int, nbytes: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        result = self._runtime.cudaMemcpyAsync(host, device, nbytes, kind, stream)
        self._checked("cudaMemcpyAsync from the GPU", result)

    def begin_capture(self, stream: Any) -> None:
        """What is queued on `stream` from here on is recorded, not run; other threads' CUDA calls are let be."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked("cudaStreamBeginCapture", self._runtime.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: Any) -> Any:
        """The graph of what was recorded."""
        return self._checked("cudaStreamEndCapture", self._runtime.cudaStreamEndCapture(stream))

    def instantiate(self, graph: Any) -> Any:
        """What `launch` takes; `graph` may go."""
        return self._checked("cudaGraphInstantiate", self._runtime.cudaGraphInstantiate(graph, 0))

    def destroy_graph(self, graph: Any) -> None:
        self._checked("cudaGraphDestroy", self._runtime.cudaGraphDestroy(graph))

    def launch(self, executable: Any, stream: Any) -> None:
        self._checked("cudaGraphLaunch", self._runtime.cudaGraphLaunch(executable, stream))

    def destroy_executable(self, executable: Any) -> None:
        self._checked("cudaGraphExecDestroy", self._runtime.cudaGraphExecDestroy(executable))

    def forget_error(self) -> None:
        """A failed capture leaves its error to be reported once more by a later, innocent call; this takes it away."""
        self._runtime.cudaGetLastError()
