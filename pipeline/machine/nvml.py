"""NVIDIA's management library: energy, clocks and power limit of the GPU that CUDA uses. nvidia-ml-py is optional."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from export.engines.tensorrt.cuda_calls import Cuda, check_gpu
from export.runner import Unavailable


@dataclass(frozen=True)
class GpuEnergy:
    """`joules` of the GPU board in `seconds`, idle power included."""

    joules: float
    seconds: float


class Nvml:
    """The GPU that CUDA calls device 0. Raises Unavailable where NVML, the GPU or its energy counter is missing."""

    def __init__(self) -> None:
        check_gpu()
        try:
            import pynvml
        except ImportError as error:
            raise Unavailable("energy of the GPU needs nvidia-ml-py: pip install nvidia-ml-py") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise Unavailable(f"NVML cannot be used: {error}") from error
        try:
            # By bus id, because NVML numbers all GPUs and CUDA only those of CUDA_VISIBLE_DEVICES.
            bus = Cuda().pci_bus_id()
            self._device = pynvml.nvmlDeviceGetHandleByPciBusId(bus)
            self._millijoules()
        except pynvml.NVMLError as error:
            pynvml.nvmlShutdown()
            raise Unavailable(f"this GPU has no energy counter: {error}") from error
        self.source = f"NVML energy counter of GPU {bus}, the whole board"

    def measure(self, load: Callable[[], None]) -> GpuEnergy:
        """Run `load`, which should take seconds: the counter is updated only every 20 to 100 ms."""
        before, start = self._millijoules(), time.monotonic()
        load()
        return GpuEnergy((self._millijoules() - before) * 1e-3, time.monotonic() - start)

    def clocks_mhz(self) -> dict[str, int]:
        """Current clocks."""
        nvml = self._nvml
        kinds = {"graphics": nvml.NVML_CLOCK_GRAPHICS, "sm": nvml.NVML_CLOCK_SM, "memory": nvml.NVML_CLOCK_MEM}
        found = {}
        for name, kind in kinds.items():
            value = self._optional(nvml.nvmlDeviceGetClockInfo, kind)
            if value is not None:
                found[name] = int(value)
        return found

    def power_limit_watts(self) -> float | None:
        """The power limit in force; None where the GPU does not report it."""
        value = self._optional(self._nvml.nvmlDeviceGetEnforcedPowerLimit)
        return None if value is None else float(value) * 1e-3

    def __enter__(self) -> "Nvml":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nvml.nvmlShutdown()

    def _millijoules(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device))

    def _optional(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(self._device, *arguments)
        except self._nvml.NVMLError_NotSupported:
            return None
