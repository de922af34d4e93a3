"""A Jetson's power rails: INA3221 sensors that Linux shows under hwmon, sampled while a load runs.

For each channel n, `in<n>_label` is the rail's name, `in<n>_input` its millivolts, `curr<n>_input` its milliamperes.
"""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.runner import Unavailable

# Rails that feed the whole module (Orin Nano and NX, Xavier NX; TX2 and Nano). Where there is none of them (AGX), each
# rail feeds its own part, and their sum is the whole module.
_WHOLE_MODULE = ("VDD_IN", "POM_5V_IN")
_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Rail:
    """One measured power supply."""

    label: str
    millivolts: Path
    milliamperes: Path

    def watts(self) -> float:
        """Power at this moment. OSError where the sensor does not answer."""
        volts, amperes = (
            float(path.read_text(encoding="ascii")) * 1e-3 for path in (self.millivolts, self.milliamperes)
        )
        return volts * amperes


def find_rails(root: Path = Path("/")) -> list[Rail]:
    """Every named rail of the INA3221 sensors; none on other machines."""
    folders = {
        path.resolve()
        for pattern in ("sys/class/hwmon/hwmon*", "sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*")
        for path in root.glob(pattern)
    }
    return [rail for folder in sorted(folders) if _is_ina3221(folder) for rail in _rails(folder)]


def _is_ina3221(folder: Path) -> bool:
    name = folder / "name"
    return name.is_file() and name.read_text(encoding="ascii").strip().startswith("ina3221")


def _rails(folder: Path) -> list[Rail]:
    rails = []
    for label in sorted(folder.glob("in*_label")):
        channel = label.name.removeprefix("in").removesuffix("_label")
        millivolts, milliamperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
        name = label.read_text(encoding="ascii").strip()
        # NC: not connected. The chip's own sum of shunt voltages is a channel with a label, but no current.
        if name not in ("", "NC") and millivolts.is_file() and milliamperes.is_file():
            rails.append(Rail(name, millivolts, milliamperes))
    return rails


@dataclass(frozen=True)
class RailEnergy:
    """`joules` of the whole module in `seconds`; `watts` are the mean power of each rail."""

    joules: float
    seconds: float
    watts: dict[str, float]


class RailMeter:
    """Measures the energy of the whole module while a load runs. Raises Unavailable where there are no rails."""

    def __init__(self, root: Path = Path("/"), sample_seconds: float = _SAMPLE_SECONDS) -> None:
        self._rails = find_rails(root)
        if not self._rails:
            raise Unavailable("this machine has no INA3221 power sensors (a Jetson has)")
        names = [rail.label for rail in self._rails]
        whole = [name for name in names if name in _WHOLE_MODULE]
        self._counted = whole or names
        self._sample_seconds = sample_seconds
        self.source = f"INA3221 {' + '.join(self._counted)}, the whole module"

    def measure(self, load: Callable[[], None]) -> RailEnergy:
        """Run `load` and integrate the power over its time (trapezoidal rule). OSError where a sensor fails."""
        samples: list[tuple[float, list[float]]] = [self._sample()]
        failures: list[OSError] = []
        done = threading.Event()

        def watch() -> None:
            try:
                while not done.wait(self._sample_seconds):
                    samples.append(self._sample())
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            load()
        finally:
            done.set()
            thread.join()
        if failures:
            raise failures[0]
        samples.append(self._sample())
        return self._integrated(samples)

    def _sample(self) -> tuple[float, list[float]]:
        return time.monotonic(), [rail.watts() for rail in self._rails]

    def _integrated(self, samples: list[tuple[float, list[float]]]) -> RailEnergy:
        seconds = samples[-1][0] - samples[0][0]
        joules = [0.0] * len(self._rails)
        for (earlier, before), (later, after) in itertools.pairwise(samples):
            for index, (first, second) in enumerate(zip(before, after, strict=True)):
                joules[index] += (later - earlier) * (first + second) / 2
        labels = [rail.label for rail in self._rails]
        total = sum(value for label, value in zip(labels, joules, strict=True) if label in self._counted)
        return RailEnergy(total, seconds, {name: value / seconds for name, value in zip(labels, joules, strict=True)})
