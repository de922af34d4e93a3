"""`doctor`, on a host and on a device: what is here, what is missing, versions known to be bad, and the fix for each."""

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from calib.preprocess import opencv_version
from export.cpu import bf16_instructions, int8_instructions
from export.engines.engine import backend_module
from export.engines.spec import BACKENDS, ON_REQUEST
from export.engines.tensorrt.cuda_device import compute_capability
from export.runner import Unavailable
from pipeline.machine.describe import cpu_name, gpu_name, installed_versions
from pipeline.machine.jetson import jetpack_release, jetson_model, l4t_release, memory_bytes, power_mode
from pipeline.machine.known_bad import known_problem

HOST_PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxsim", "nvidia-modelopt", "pydantic", "PyYAML")
_GIB = 1 << 30
_LITTLE_DISK = _GIB
_LITTLE_MEMORY = 8 * _GIB  # a Jetson with less memory and swap than this together runs out while TensorRT builds
Check = Callable[[], None]


@dataclass(frozen=True)
class Finding:
    """A row of the table. `status` is ok, missing, bad (known to fail or to give wrong results) or note; `fix` is a command
    or advice."""

    group: str
    item: str
    found: str
    status: str
    detail: str = ""
    fix: str = ""


def examine(device: bool) -> list[Finding]:
    """Every row of the table; on a `device` without the packages that only training and export need."""
    return [*_machine(), _disk(), *_jetson(), *_packages(device), *_backends(device)]


def print_doctor(as_json: bool, device: bool = False) -> bool:
    """Print the table; False where no engine can run here."""
    findings = examine(device)
    runs = any(row.group == "engine" and row.status in ("ok", "bad") for row in findings)
    if as_json:
        print(json.dumps({"schema": 1, "can_run": runs, "findings": [asdict(row) for row in findings]}, indent=1))
        return runs
    width = max(len(row.item) for row in findings)
    group = None
    for row in findings:
        if row.group != group:
            group = row.group
            print(_TITLES[group])
        print(f"  {row.item:<{width}}  {row.status:<8} {row.found}")
        for text in (row.detail, f"fix: {row.fix}" if row.fix else ""):
            if text:
                print(f"  {'':<{width}}  {'':<8} {text}")
    wrong = sum(row.status == "bad" for row in findings)
    print(f"{'Engines can run here' if runs else 'No engine can run here'}; known to be bad: {wrong}")
    return runs


_TITLES = {
    "machine": "Machine", "jetson": "Jetson", "package": "Packages", "engine": "Engines",
}  # fmt: skip


def _machine() -> list[Finding]:
    rows = [Finding("machine", "python", platform.python_version(), "ok"),
            Finding("machine", "system", f"{platform.system()}-{platform.machine()}", "ok")]  # fmt: skip
    slow = (
        "" if int8_instructions() else "without INT8 instructions, INT8 engines are hardly faster than FP32 on this CPU"
    )
    rows.append(Finding("machine", "cpu", cpu_name(), "note" if slow else "ok", slow))
    bf16 = ", ".join(bf16_instructions())
    without = "" if bf16 else "engines of bf16 and int8-bf16 on a CPU need AVX512_BF16 or AMX_BF16"
    rows.append(Finding("machine", "bf16", bf16 or "none", "note" if without else "ok", without))
    gpu = gpu_name()
    if gpu is None:
        return [*rows, Finding("machine", "gpu", "none", "note", "nvidia-smi finds no NVIDIA GPU")]
    return [*rows, _gpu(gpu)]


def _gpu(name: str) -> Finding:
    try:
        return Finding("machine", "gpu", f"{name}, compute capability {compute_capability()}", "ok")
    except Unavailable as reason:
        return Finding(
            "machine", "gpu", name, "missing", str(reason), "pip install cuda-bindings (12.* for a CUDA 12 driver)"
        )


def _disk() -> Finding:
    """Of the home, where a bundle goes."""
    found = shutil.disk_usage(Path.home())
    little = found.free < _LITTLE_DISK
    return Finding(
        "machine", "disk", f"{found.free / _GIB:.1f} GiB free of {found.total / _GIB:.1f}", "note" if little else "ok",
        "a bundle and its engines may not find room" if little else "",
    )  # fmt: skip


def _jetson() -> list[Finding]:
    model, l4t, memory = jetson_model(), l4t_release(), memory_bytes()
    total, swap = memory.get("MemTotal", 0), memory.get("SwapTotal", 0)
    shown = f"{total / _GIB:.1f} GiB, {memory.get('MemAvailable', 0) / _GIB:.1f} free; swap {swap / _GIB:.1f} GiB"
    if model is None:
        return [Finding("machine", "memory", shown, "ok")] if total else []
    jetpack = jetpack_release(l4t)
    rows = [
        Finding("jetson", "model", model, "ok"),
        Finding("jetson", "L4T", f"{l4t or 'unknown'} (JetPack {jetpack or 'not in our table'})", "ok" if jetpack else "note",
                "" if jetpack else "docs/jetson.md lists the releases that were looked at"),
    ]  # fmt: skip
    mode = power_mode()
    slow = mode is not None and not mode.startswith("MAXN")
    rows.append(Finding("jetson", "power mode", mode or "nvpmodel does not tell", "note" if slow else "ok",
                        "latency is measured in this mode, and is not that of MAXN" if slow else "",
                        "sudo nvpmodel -m 0 && sudo jetson_clocks" if slow else ""))  # fmt: skip
    little = total + swap < _LITTLE_MEMORY
    rows.append(Finding("jetson", "memory", shown, "note" if little else "ok",
                        "CPU and GPU share it: TensorRT may run out while it builds" if little else "",
                        "sudo fallocate -l 8G /swap && sudo chmod 600 /swap && sudo mkswap /swap && sudo swapon /swap"
                        if little else ""))  # fmt: skip
    return rows


def _packages(device: bool) -> list[Finding]:
    rows = [_opencv()]
    names = ("numpy", "cuda-bindings") if device else ("numpy", "cuda-bindings", *HOST_PACKAGES)
    versions = installed_versions(names)
    for name, version in versions.items():
        if version is None:
            fix = f"pip install {name}" if device or name == "cuda-bindings" else "make setup"
            rows.append(Finding("package", name, "-", "note" if name == "cuda-bindings" else "missing",
                                "only TensorRT needs it" if name == "cuda-bindings" else "", fix))  # fmt: skip
        else:
            rows.append(_judge("package", name, version, versions))
    return rows


def _judge(group: str, name: str, version: str, others: dict[str, str | None]) -> Finding:
    problem = known_problem(name, version, others)
    if problem is None:
        return Finding(group, name, version, "ok")
    return Finding(group, name, version, "bad", problem.what, problem.fix)


def _opencv() -> Finding:
    try:
        return Finding("package", "opencv", opencv_version(), "ok")
    except ImportError as error:  # not installed, or it lacks the display libraries it links to, or needs another numpy
        return Finding(
            "package", "opencv", "-", "missing", " ".join(str(error).split()), "pip install opencv-python-headless"
        )


def _backends(device: bool) -> list[Finding]:
    return [_backend(backend, device) for backend in BACKENDS if not (device and backend in ON_REQUEST)]


def _backend(backend: str, device: bool) -> Finding:
    module = backend_module(backend)
    version = module.version()
    build, run = _reason(module.check_available_to_build), _reason(module.check_available_to_run)
    if not run and build:
        return Finding("engine", backend, version or "-", "note", f"runs engines, cannot build them: {build}")
    if not run:
        assert version is not None
        return _judge("engine", backend, version, {})
    if device:
        run = without_extra(run)
    detail = f"builds engines, cannot run them: {run}" if not build else run
    fix = module.INSTALL_ON_DEVICE if device else module.INSTALL
    return Finding("engine", backend, version or "-", "missing" if build else "note", detail, "" if version else fix)


def without_extra(reason: str) -> str:
    """Why a backend is not here, without how a checkout installs it: a device has none."""
    return reason.partition(": pip install -e")[0]


def _reason(check: Check) -> str:
    try:
        check()
    except Unavailable as reason:
        return str(reason)
    return ""
