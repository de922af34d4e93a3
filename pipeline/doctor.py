"""`t2t-edge doctor`: what is installed here, what it can build and run, and the command that mends the rest."""

import platform
from collections.abc import Callable

from export import onnxruntime_backend, openvino_backend, tensorrt_backend, tensorrt_rtx_backend
from export.engines import backend_version
from export.runner import Unavailable
from pipeline.machine import cpu_name, gpu_name, int8_instructions
from pipeline.versions import installed_versions

HOST_PACKAGES = ("torch", "timm", "onnx", "onnxsim", "nvidia-modelopt", "opencv-python-headless", "numpy", "PyYAML")


def print_doctor() -> bool:
    """Print the table; False where not even one engine can run here."""
    print(f"Python {platform.python_version()} on {platform.system()}-{platform.machine()}")
    print(f"CPU    {cpu_name()}")
    if not int8_instructions():
        print("       without INT8 instructions, INT8 engines are hardly faster than FP32 on this CPU")
    print(f"GPU    {gpu_name() or 'none (nvidia-smi finds no NVIDIA GPU)'}")
    print()
    for name, version in installed_versions(HOST_PACKAGES).items():
        print(f"{name:<24} {version or 'missing: make setup'}")
    print()
    checks: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "onnxruntime": (onnxruntime_backend.check_available, onnxruntime_backend.check_available),
        "openvino": (openvino_backend.check_available, openvino_backend.check_available),
        "tensorrt": (tensorrt_backend.check_available_to_build, tensorrt_backend.check_available_to_run),
        "tensorrt_rtx": (tensorrt_rtx_backend.check_available_to_build, tensorrt_rtx_backend.check_available_to_run),
    }
    runs = 0
    for backend, (build, run) in checks.items():
        can_build, can_run = _reason(build), _reason(run)
        runs += not can_run
        print(f"{backend:<14} {backend_version(backend) or '-':<14} build: {can_build or 'yes'}")
        print(f"{'':<29} run:   {can_run or 'yes'}")
    return runs > 0


def _reason(check: Callable[[], None]) -> str:
    try:
        check()
    except Unavailable as reason:
        return str(reason)
    return ""
