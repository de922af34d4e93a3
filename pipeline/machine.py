"""What this machine is: CPU, GPU and the versions that matter for a number."""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from export.engines import backend_version


def cpu_name() -> str:
    """The CPU's model name and core count, as the operating system tells them."""
    import os

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: what Python knows has to do
    return f"{name}, {os.cpu_count()} cores"


def gpu_name() -> str | None:
    """The first NVIDIA GPU as nvidia-smi names it, None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    answer = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    lines = answer.stdout.strip().splitlines()
    return lines[0] if answer.returncode == 0 and lines else None


def describe_machine(engines: list[dict[str, Any]]) -> dict[str, Any]:
    """`machine` of the report."""
    versions = {backend: backend_version(backend) for backend in sorted({row["backend"] for row in engines})}
    found = {name: version for name, version in versions.items() if version is not None}
    return {"cpu": cpu_name(), "gpu": gpu_name(), "versions": {"python": platform.python_version(), **found}}
