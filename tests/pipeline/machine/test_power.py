"""Energy, clocks and memory of an engine: Jetson rails on a made-up folder tree, NVML by a stand-in."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.runner import TensorInfo, Unavailable
from pipeline.machine import nvml, power
from pipeline.machine.jetson_rails import RailMeter, find_rails
from pipeline.machine.power import EnergyMeter, describe_power, read_clocks

IMAGES = np.zeros((4, 2, 2, 3), np.uint8)


def write_sensor(folder: Path, chip: str, channels: dict[int, tuple[str | None, int | None, int | None]]) -> None:
    """A hwmon folder; each channel is (label, millivolts, milliamperes), None for a file that is not there."""
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{chip}\n", encoding="ascii")
    for number, values in channels.items():
        for name, value in zip((f"in{number}_label", f"in{number}_input", f"curr{number}_input"), values, strict=True):
            if value is not None:
                (folder / name).write_text(f"{value}\n", encoding="ascii")


@pytest.fixture
def orin_nano(tmp_path: Path) -> Path:
    """As JetPack 6 shows it: 9 W in all, a sensor that is none of ours, and the chip's own sum, which has no label."""
    hwmon = tmp_path / "sys/class/hwmon"
    write_sensor(hwmon / "hwmon0", "tmp451", {1: ("VDD_IN", 1, 1)})
    write_sensor(hwmon / "hwmon3", "ina3221", {
        1: ("VDD_IN", 5000, 1800), 2: ("VDD_CPU_GPU_CV", 5000, 400), 3: ("VDD_SOC", 5000, 300), 4: (None, 17, 3000),
        7: ("sum of shunt voltages", 80, None),
    })  # fmt: skip
    return tmp_path


@pytest.fixture
def agx_orin(tmp_path: Path) -> Path:
    """Two chips, no rail of the whole module, one channel that is not connected; only under the bus."""
    chips: dict[str, Any] = {
        "1-0040": {1: ("VDD_GPU_SOC", 20000, 500), 2: ("VDD_CPU_CV", 20000, 100)},
        "1-0041": {1: ("NC", 0, 0), 2: ("VIN_SYS_5V0", 5000, 600)},
    }
    for number, (address, rails) in enumerate(chips.items()):
        write_sensor(tmp_path / f"sys/bus/i2c/drivers/ina3221/{address}/hwmon/hwmon{number}", "ina3221", rails)
    return tmp_path


def test_rails_of_a_module_with_one_supply(orin_nano: Path) -> None:
    assert [(rail.label, rail.watts()) for rail in find_rails(orin_nano)] == [
        ("VDD_IN", 9.0), ("VDD_CPU_GPU_CV", 2.0), ("VDD_SOC", 1.5),
    ]  # fmt: skip
    assert RailMeter(orin_nano).source == "INA3221 VDD_IN, the whole module"


def test_rails_side_by_side_are_added_up(agx_orin: Path) -> None:
    meter = RailMeter(agx_orin, 0.01)
    energy = meter.measure(lambda: time.sleep(0.03))
    assert meter.source == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0, the whole module"
    assert energy.watts == pytest.approx({"VDD_GPU_SOC": 10, "VDD_CPU_CV": 2, "VIN_SYS_5V0": 3})
    assert energy.joules == pytest.approx(15 * energy.seconds)


def test_one_sensor_in_two_places_counts_once(orin_nano: Path) -> None:
    again = orin_nano / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon"
    again.mkdir(parents=True)
    (again / "hwmon3").symlink_to(orin_nano / "sys/class/hwmon/hwmon3")
    assert len(find_rails(orin_nano)) == 3


def test_power_that_changes_is_followed_while_the_load_runs(orin_nano: Path) -> None:
    current = orin_nano / "sys/class/hwmon/hwmon3/curr1_input"
    sampled = threading.Event()

    def load() -> None:
        time.sleep(0.1)
        temporary = current.with_name("new")
        temporary.write_text("5400", encoding="ascii")  # 27 W from here on
        temporary.replace(current)
        time.sleep(0.1)
        sampled.set()

    energy = RailMeter(orin_nano, 0.005).measure(load)
    assert sampled.is_set() and 9.5 < energy.watts["VDD_IN"] < 26.5
    assert energy.joules == pytest.approx(energy.watts["VDD_IN"] * energy.seconds)


def test_a_sensor_that_fails_is_an_error_and_so_is_the_loads(orin_nano: Path) -> None:
    meter = RailMeter(orin_nano, 0.005)

    def fail() -> None:
        raise RuntimeError("the engine failed")

    with pytest.raises(RuntimeError, match="the engine failed"):
        meter.measure(fail)

    def unplug() -> None:
        (orin_nano / "sys/class/hwmon/hwmon3/curr2_input").unlink()
        time.sleep(0.05)

    with pytest.raises(FileNotFoundError, match="curr2_input"):
        meter.measure(unplug)


def test_a_machine_without_sensors_has_no_rails(tmp_path: Path) -> None:
    assert find_rails(tmp_path) == []
    with pytest.raises(Unavailable, match="no INA3221"):
        RailMeter(tmp_path)


class NoGpu:
    """In Nvml's place on a machine without one."""

    def __init__(self) -> None:
        raise Unavailable("this machine has no NVIDIA GPU")


class Engine:
    """Counts its calls; each takes a millisecond."""

    inputs = (TensorInfo("images", (None, 2, 2, 3), "uint8"),)
    outputs = inputs

    def __init__(self) -> None:
        self.calls = 0

    def infer(self, feeds: Any) -> dict[str, Any]:
        assert set(feeds) == {"images"}
        self.calls += 1
        time.sleep(0.001)
        return {}

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        return


def test_energy_of_an_image_is_the_loads_energy_over_its_images(orin_nano: Path) -> None:
    gpu = orin_nano / "sys/class/devfreq/17000000.gpu"
    gpu.mkdir(parents=True)
    for name, value in (("cur_freq", 624_750_000), ("max_freq", 1_020_000_000)):
        (gpu / name).write_text(f"{value}\n", encoding="ascii")
    engine = Engine()
    with ExitStack() as stack:
        row = EnergyMeter(stack, orin_nano).measure(engine, IMAGES, 0.05, on_gpu=False)
    assert row["images"] == 4 * engine.calls > 0
    assert row["mj_per_image"] == pytest.approx(9e3 * row["seconds"] / row["images"])
    assert row["watts"] == pytest.approx(9) and row["rails_watts"]["VDD_SOC"] == pytest.approx(1.5)
    assert row["clocks_mhz"] == {"graphics": 624, "graphics_max": 1020}
    assert (row["source"], row["reason"]) == ("INA3221 VDD_IN, the whole module", "")


def test_without_a_meter_energy_is_null_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "Nvml", NoGpu)
    with ExitStack() as stack:
        row = EnergyMeter(stack, tmp_path).measure(Engine(), IMAGES, 9, on_gpu=True)
    assert row["mj_per_image"] is None
    assert row["reason"] == "this machine has no INA3221 power sensors (a Jetson has); this machine has no NVIDIA GPU"


class FakeNvml:
    """pynvml for one GPU that takes 5 J between two looks; `missing` are calls it does not support."""

    NVML_CLOCK_GRAPHICS, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # pynvml's name
        pass

    def __init__(self, *missing: str) -> None:
        self.missing, self.open, self.millijoules = missing, 0, 10**9

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        assert bus == "0000:01:00.0"
        return "device"

    def _supported(self, name: str, value: int) -> int:
        if name in self.missing:
            raise self.NVMLError_NotSupported("Not Supported")
        return value

    def nvmlDeviceGetTotalEnergyConsumption(self, device: str) -> int:
        self.millijoules += 5000
        return self._supported("energy", self.millijoules)

    def nvmlDeviceGetClockInfo(self, device: str, kind: int) -> int:
        return self._supported("clocks", (1800, 1805, 9501)[kind])

    def nvmlDeviceGetEnforcedPowerLimit(self, device: str) -> int:
        return self._supported("limit", 285_000)


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeNvml) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
    monkeypatch.setattr(nvml, "check_gpu", lambda: None)
    monkeypatch.setattr(nvml, "Cuda", lambda: SimpleNamespace(pci_bus_id=lambda: "0000:01:00.0"))


def test_nvml_measures_engines_on_the_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    use(monkeypatch, fake)
    with ExitStack() as stack:
        meter = EnergyMeter(stack, tmp_path)
        row = meter.measure(Engine(), IMAGES, 0.1, on_gpu=True)
        assert row["mj_per_image"] == pytest.approx(5000 / row["images"]) and row["source"].startswith(
            "NVML energy counter of GPU 0000:01"
        )
        assert row["watts"] * row["seconds"] == pytest.approx(5)
        assert row["clocks_mhz"] == {"graphics": 1800, "sm": 1805, "memory": 9501}
        assert describe_power(meter.nvml, tmp_path)["gpu_power_limit_watts"] == 285
        row = meter.measure(Engine(), IMAGES, 0.1, on_gpu=False)
        assert row == {
            "mj_per_image": None,
            "source": None,
            "reason": "NVML measures the GPU, this engine runs on the CPU",
        }
    assert fake.open == 0


def test_a_gpu_without_an_energy_counter_is_said_and_nvml_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("energy")
    use(monkeypatch, fake)
    with pytest.raises(Unavailable, match="this GPU has no energy counter: Not Supported"):
        nvml.Nvml()
    assert fake.open == 0


def test_clocks_that_a_gpu_does_not_tell_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeNvml("clocks", "limit"))
    with nvml.Nvml() as found:
        assert (found.clocks_mhz(), found.power_limit_watts()) == ({}, None)


def test_every_nvml_name_exists() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    names = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert len(names) > 8 and [name for name in names if not hasattr(pynvml, name)] == []


def test_power_mode_and_governor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvpmodel = tmp_path / "bin" / "nvpmodel"
    nvpmodel.parent.mkdir()
    nvpmodel.write_text("#!/bin/sh\n[ $1 = -q ] && printf 'NV Power Mode: MAXN_SUPER\\n2\\n'\n", encoding="ascii")
    nvpmodel.chmod(0o755)
    governor = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("schedutil\n", encoding="ascii")
    monkeypatch.setenv("PATH", f"{nvpmodel.parent}:/bin:/usr/bin")
    assert describe_power(None, tmp_path) == {
        "power_mode": "MAXN_SUPER", "gpu_power_limit_watts": None, "cpu_governor": "schedutil",
    }  # fmt: skip
    nvpmodel.write_text("#!/bin/sh\necho 'no permission' >&2\nexit 1\n", encoding="ascii")
    assert describe_power(None, tmp_path)["power_mode"] == "unknown: no permission"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_power(None, tmp_path / "none") == {
        "power_mode": None, "gpu_power_limit_watts": None, "cpu_governor": None,
    }  # fmt: skip
    assert read_clocks(tmp_path, None) == {}
