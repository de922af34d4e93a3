"""Energy of an image, and the clocks and power mode at which it was measured."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runner import Runner, Unavailable
from pipeline.machine.jetson import power_mode
from pipeline.machine.jetson_rails import RailMeter
from pipeline.machine.nvml import Nvml

_GPU_NAMES = (
    "gpu",
    "gv11b",
    "ga10b",
    "gb10b",
)  # a Jetson's GPU among the devfreq devices; the name depends on the release


class EnergyMeter:
    """Energy by the module's rails on a Jetson, for every engine; else by NVML, for engines that run on the GPU."""

    def __init__(self, stack: ExitStack, root: Path = Path("/")) -> None:
        self._root = root
        self._rails: RailMeter | None = None
        self.nvml: Nvml | None = None
        self.reason = ""
        try:
            self._rails = RailMeter(root)
        except Unavailable as no_rails:
            try:
                self.nvml = stack.enter_context(Nvml())
            except Unavailable as no_nvml:
                self.reason = f"{no_rails}; {no_nvml}"

    def measure(self, runner: Runner, images: NDArray[np.uint8], seconds: float, *, on_gpu: bool) -> dict[str, Any]:
        """Call the engine with `images` for `seconds`: `mj_per_image`, its source and the clocks; None with a reason where
        it cannot be measured."""
        meter = self._rails or (self.nvml if on_gpu else None)
        if meter is None:
            reason = self.reason or "NVML measures the GPU, this engine runs on the CPU"
            return {"mj_per_image": None, "source": None, "reason": reason}
        calls, feeds = 0, {runner.inputs[0].name: images}

        def load() -> None:
            nonlocal calls
            end = time.monotonic() + seconds
            while time.monotonic() < end or not calls:
                runner.infer(feeds)
                calls += 1

        energy = meter.measure(load)
        clocks = read_clocks(self._root, self.nvml)  # at once, while they are still those of the load
        return {
            "mj_per_image": 1e3 * energy.joules / (calls * len(images)), "source": meter.source, "reason": "",
            "watts": energy.joules / energy.seconds, "rails_watts": getattr(energy, "watts", None),
            "seconds": energy.seconds, "images": calls * len(images), "clocks_mhz": clocks,
        }  # fmt: skip


def read_clocks(root: Path, nvml: Nvml | None) -> dict[str, int]:
    """GPU clocks in MHz, from NVML or on a Jetson from devfreq; empty on other machines."""
    if nvml is not None:
        return nvml.clocks_mhz()
    for device in sorted(root.glob("sys/class/devfreq/*")):
        if any(name in device.name for name in _GPU_NAMES) and (device / "cur_freq").is_file():
            clocks = {"graphics": device / "cur_freq", "graphics_max": device / "max_freq"}
            return {name: int(path.read_text(encoding="ascii")) // 10**6 for name, path in clocks.items()}
    return {}


def describe_power(nvml: Nvml | None, root: Path = Path("/")) -> dict[str, Any]:
    """What limits this machine's speed: Jetson power mode, GPU power limit, CPU governor; each None where there is none."""
    governor = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    return {
        "power_mode": power_mode(),
        "gpu_power_limit_watts": nvml.power_limit_watts() if nvml is not None else None,
        "cpu_governor": governor.read_text(encoding="ascii").strip() if governor.is_file() else None,
    }
