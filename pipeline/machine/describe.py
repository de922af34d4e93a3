"""What this machine is: CPU, GPU and the versions that matter for a number."""

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from typing import Any

from export.cpu import cpu_facts, int8_instructions
from export.engines.engine import backend_version
from pipeline.machine.jetson import jetson_model, l4t_release


def cpu_name() -> str:
    """The CPU's model name, cores and INT8 instructions, as the operating system reports them, without marks of trade."""
    facts = cpu_facts()
    told = facts.get("model name") or platform.processor() or platform.machine()
    name = " ".join(re.sub(r"\((R|TM)\)|\bProcessor$", " ", told, flags=re.IGNORECASE).split())
    return f"{name}, {os.cpu_count()} cores, INT8 instructions: {', '.join(int8_instructions()) or 'none'}"


def gpu_name() -> str | None:
    """A Jetson's model, else the first NVIDIA GPU as nvidia-smi names it, None without one."""
    if model := jetson_model():
        return model
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
    found = {name: version for name, version in (versions | {"l4t": l4t_release()}).items() if version is not None}
    return {"cpu": cpu_name(), "gpu": gpu_name(), "versions": {"python": platform.python_version(), **found}}


def installed_versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Installed versions of distributions, None for those not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
