"""What a process that the command starts for one part does."""

import ctypes
import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from bench.gpu_parts.failures import PROGRESS, RESULT, Progress
from bench.gpu_parts.parts import Part, Scale

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def measure(
    part: Part, scale: Scale, device: torch.device, folder: Path, without: dict[str, str], compiler: str
) -> None:
    """Measure one part in this process; the row is written into `folder`."""
    end_with_parent()
    row = _row(part, scale, device, Progress(folder / PROGRESS), without, compiler)
    (folder / RESULT).write_text(json.dumps(row), encoding="utf-8")


def _row(
    part: Part, scale: Scale, device: torch.device, progress: Progress, without: dict[str, str], compiler: str
) -> dict[str, Any]:
    """What the part takes is imported for it alone: timm takes seconds."""
    if part.kind == "ceiling":
        from bench.gpu_parts.ceiling import measure_ceiling

        return measure_ceiling(scale, device)
    if part.kind == "tensorrt_rtx":
        from bench.gpu_parts.rtx import try_tensorrt_rtx

        return try_tensorrt_rtx(device)
    if part.kind == "training":
        from bench.gpu_parts.training import measure_training

        return measure_training(part, scale, device, progress, without, compiler)
    from bench.gpu_parts.forward import measure_forward

    return measure_forward(part, scale, device, progress, without, compiler)


def end_with_parent() -> None:
    """Have Linux kill this process when the one that started it is killed: it would keep the GPU busy for minutes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
