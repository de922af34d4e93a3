"""The TensorRT runner's own work (shapes, copies, memory), on a stand-in for the GPU that keeps device memory in RAM.

Not a proof that it runs on a GPU: the tests marked `gpu` in test_tensorrt_rtx.py are.
"""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calib.errors import InputError
from export.runner import Unavailable
from export.tensorrt_runner import CudaError, TensorRtRunner, check_gpu

cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
SUCCESS, NO_MEMORY = cuda.cudaError_t.cudaSuccess, cuda.cudaError_t.cudaErrorMemoryAllocation
MODES = SimpleNamespace(INPUT=1, OUTPUT=2)


class RamGpu:
    """cudaMalloc and its kin over RAM; `calls_left` allocations succeed, then memory is out."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams = 0
        self.calls_left = 99

    def malloc(self, size: int) -> tuple[Any, int]:
        if not self.calls_left:
            return NO_MEMORY, 0
        self.calls_left -= 1
        block = ctypes.create_string_buffer(size)
        address = ctypes.addressof(block)
        self.memory[address] = block
        return SUCCESS, address

    def free(self, address: int) -> tuple[Any]:
        del self.memory[address]
        return (SUCCESS,)

    def copy(self, target: int, source: int, size: int, kind: Any, stream: Any) -> tuple[Any]:
        device = target if kind == cuda.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert size <= len(self.memory[device]) and stream == 7
        ctypes.memmove(target, source, size)
        return (SUCCESS,)

    def create_stream(self) -> tuple[Any, int]:
        self.streams += 1
        return SUCCESS, 7

    def destroy_stream(self, stream: int) -> tuple[Any]:
        self.streams -= 1
        return (SUCCESS,)


class SumEngine:
    """Engine and context in one: images (1–4, 2, 3) uint8 → the sum of each, (batch,) float32."""

    num_io_tensors = 2

    def __init__(self) -> None:
        self.batch, self.addresses = -1, dict[str, int]()

    def create_execution_context(self) -> "SumEngine":
        return self

    def get_tensor_name(self, index: int) -> str:
        return ("sums", "images")[index]

    def get_tensor_mode(self, name: str) -> int:
        return MODES.INPUT if name == "images" else MODES.OUTPUT

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 2, 3), (1, 2, 3), (4, 2, 3)]

    def get_tensor_dtype(self, name: str) -> type:
        return np.uint8 if name == "images" else np.float32

    def get_tensor_location(self, name: str) -> str:
        return "device"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, 2, 3) if name == "images" else (self.batch,)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fits = 1 <= shape[0] <= 4 and shape[1:] == (2, 3)
        self.batch = shape[0] if fits else self.batch
        return fits

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        data = ctypes.string_at(self.addresses["images"], self.batch * 6)
        sums = np.frombuffer(data, np.uint8).reshape(self.batch, 6).sum(axis=1).astype(np.float32)
        ctypes.memmove(self.addresses["sums"], sums.ctypes.data, sums.nbytes)
        return True


class FreeShapeEngine(SumEngine):
    """The engine itself knows no batch size; its context does."""

    def create_execution_context(self) -> SumEngine:
        return SumEngine()


def fake_tensorrt(engine: SumEngine | None) -> Any:
    class Logger:
        INTERNAL_ERROR, ERROR = 0, 1

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> SumEngine | None:
            if engine is None:
                self.logger.log(Logger.ERROR, "built for\nanother GPU")
            return engine

    return SimpleNamespace(
        ILogger=Logger, Runtime=Runtime, TensorIOMode=MODES, nptype=lambda dtype: dtype,
        TensorLocation=SimpleNamespace(DEVICE="device"),
    )  # fmt: skip


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> RamGpu:
    gpu = RamGpu()
    for name, function in {
        "cudaMalloc": gpu.malloc, "cudaFree": gpu.free, "cudaMemcpyAsync": gpu.copy,
        "cudaStreamCreate": gpu.create_stream, "cudaStreamDestroy": gpu.destroy_stream,
        "cudaStreamSynchronize": lambda stream: (SUCCESS,),
    }.items():  # fmt: skip
        monkeypatch.setattr(cuda, name, function)
    return gpu


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"plan")
    return path


def test_runs_every_batch_of_the_profile_and_frees_everything(gpu: RamGpu, plan: Path) -> None:
    with TensorRtRunner(fake_tensorrt(FreeShapeEngine()), plan) as runner:
        assert [(info.name, info.shape, info.dtype) for info in runner.inputs] == [("images", (None, 2, 3), "uint8")]
        assert [(info.name, info.shape, info.dtype) for info in runner.outputs] == [("sums", (None,), "float32")]
        assert sorted(len(block) for block in gpu.memory.values()) == [4 * 4, 4 * 6]
        results = []
        for batch in (1, 4, 2):
            images = np.arange(batch * 12, dtype=np.uint8).reshape(batch, 2, 6)[:, :, ::2]  # not contiguous
            results.append((runner.infer({"images": images})["sums"], images.sum(axis=(1, 2))))
        for got, want in results:  # after all runs: outputs are the caller's
            np.testing.assert_array_equal(got, want)
    assert (gpu.memory, gpu.streams) == ({}, 0)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"images": np.zeros((5, 2, 3), np.uint8)}, r"takes shapes from \(1, 2, 3\) to \(4, 2, 3\), got \(5, 2, 3\)"),
        ({"images": np.zeros((1, 2, 3), np.float32)}, "is uint8, got float32"),
        ({"other": np.zeros((1, 2, 3), np.uint8)}, "inputs are"),
    ],
)
def test_wrong_feeds_are_refused(gpu: RamGpu, plan: Path, feeds: Any, message: str) -> None:
    with (
        TensorRtRunner(fake_tensorrt(FreeShapeEngine()), plan) as runner,
        pytest.raises(ValueError, match=message),
    ):
        runner.infer(feeds)


def test_memory_that_runs_out_is_said_and_what_was_reserved_is_freed(gpu: RamGpu, plan: Path) -> None:
    gpu.calls_left = 1
    with pytest.raises(CudaError, match="cudaMalloc of 16 bytes: out of memory"):
        TensorRtRunner(fake_tensorrt(FreeShapeEngine()), plan)
    assert (gpu.memory, gpu.streams) == ({}, 0)


def test_a_refused_engine_is_an_input_error_with_tensorrts_reason(gpu: RamGpu, plan: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)refuses the engine.*built for another GPU"):
        TensorRtRunner(fake_tensorrt(None), plan)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((cuda.cudaError_t.cudaErrorNoDevice, 0), "no NVIDIA GPU"),
        ((SUCCESS, 0), "no NVIDIA GPU"),
        ((cuda.cudaError_t.cudaErrorInsufficientDriver, 0), "no NVIDIA driver"),
        ((cuda.cudaError_t.cudaErrorSystemNotReady, 0), "CUDA cannot be used: system not yet initialized"),
    ],
)
def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, answer: tuple[Any, int], reason: str) -> None:
    monkeypatch.setattr(cuda, "cudaGetDeviceCount", lambda: answer)
    with pytest.raises(Unavailable, match=reason):
        check_gpu()


def test_a_gpu_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cudaGetDeviceCount", lambda: (SUCCESS, 1))
    check_gpu()
