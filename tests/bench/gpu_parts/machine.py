"""What the machine is: GPU, CPU and versions, as far as PyTorch and Linux tell."""

import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("timm", "numpy")


def settings(device: torch.device) -> dict[str, Any]:
    """`gpu` is None on a CPU. Versions are of what computes."""
    found: dict[str, Any] = {"gpu": None, "cpu": _cpu_name()}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in PACKAGES}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name, "compute_capability": f"{properties.major}.{properties.minor}",
            "gpu_mib": properties.total_memory // 2**20, "multiprocessors": properties.multi_processor_count,
        }  # fmt: skip
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return found | {"versions": versions}


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    told = re.search(
        r"^model name\s*:\s*(.+)$", path.read_text(encoding="utf-8") if path.exists() else "", re.MULTILINE
    )
    return told.group(1).strip() if told else platform.processor() or platform.machine()


def default_path(results: Path, here: dict[str, Any]) -> Path:
    """`results/gpu-nvidia-h200.json`; what a CPU measures is no result, and goes to runs/."""
    if here["gpu"] is None:
        return results.parent / "runs" / "gpu-cpu.json"
    return results / f"gpu-{re.sub(r'[^a-z0-9]+', '-', here['gpu'].lower()).strip('-')}.json"
