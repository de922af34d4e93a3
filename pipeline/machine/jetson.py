"""What a Jetson reports: model, L4T and JetPack release, power mode, memory and swap. None on other machines."""

import re
import shutil
import subprocess
from pathlib import Path

# L4T release → JetPack, whose TensorRT and Python docs/jetson.md lists.
_JETPACK = {
    "35.4.1": "5.1.2", "35.5.0": "5.1.3", "35.6.0": "5.1.4", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2",
    "36.4.4": "6.2.1", "38.2.0": "7.0", "38.4.0": "7.1",
}  # fmt: skip
_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
_ROOT = Path("/")


def jetson_model(root: Path = _ROOT) -> str | None:
    """`NVIDIA Jetson Orin Nano Developer Kit`, from the device tree."""
    path = root / "proc/device-tree/model"
    if not path.is_file():
        return None
    name = path.read_bytes().rstrip(b"\0").decode(errors="replace").strip()
    return name if "jetson" in name.lower() or l4t_release(root) else None


def l4t_release(root: Path = _ROOT) -> str | None:
    """`36.4.3`, from /etc/nv_tegra_release."""
    path = root / "etc/nv_tegra_release"
    match = _RELEASE.search(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    if match is None:
        return None
    revision = match[2] if "." in match[2] else f"{match[2]}.0"
    return f"{match[1]}.{revision}"


def jetpack_release(l4t: str | None) -> str | None:
    """`6.2` for L4T 36.4.3; None for one that is not in the table."""
    return _JETPACK.get(l4t or "")


def power_mode() -> str | None:
    """`MAXN`, as nvpmodel reports it: clocks, and so every latency, depend on it. None without nvpmodel."""
    if shutil.which("nvpmodel") is None:
        return None
    answer = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, check=False)
    modes = [line.partition(":")[2].strip() for line in answer.stdout.splitlines() if line.startswith("NV Power Mode")]
    return modes[0] if modes else f"unknown: {' '.join((answer.stderr or answer.stdout).split())}"


def memory_bytes(root: Path = _ROOT) -> dict[str, int]:
    """`MemTotal`, `MemAvailable` and `SwapTotal`, as far as the system reports them; a Jetson's CPU and GPU share them."""
    path = root / "proc/meminfo"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return {name: int(found[name][0]) * 1024 for name in ("MemTotal", "MemAvailable", "SwapTotal") if name in found}
