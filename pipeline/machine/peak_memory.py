"""How much memory an engine takes: GPU memory where it runs on one, else RAM, measured in a process of its own."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.engines.engine import load_engine
from export.engines.executorch.runner import ExecuTorchRunner
from export.engines.pytorch.runner import TorchRunner
from export.engines.tensorrt.child_process import call_in_child
from export.engines.tensorrt.progress import Progress
from export.engines.tensorrt.runner import TensorRtRunner
from export.runner import Runner

_STATUS = Path("/proc/self/status")


def engine_memory(folder: Path, runner: Runner, images: NDArray[np.uint8], threads: int) -> int | None:
    """Bytes for the engine in `folder` and batches like `images`; None where that is not reported (not Linux, PyTorch on a GPU).

    On a GPU: the device memory that `runner` holds after its calls. On a CPU: the highest resident memory of a new
    process that loads and runs the engine, less what that process had before; the backend's libraries are counted. ExecuTorch's
    runner has a process of its own, and there they are not: here it comes with PyTorch, on a phone without.
    """
    if isinstance(runner, ExecuTorchRunner):
        return runner.memory_bytes
    if isinstance(runner, TensorRtRunner):
        return runner.device_memory_bytes
    if not _STATUS.is_file() or (isinstance(runner, TorchRunner) and runner.on_gpu):
        return None  # PyTorch tells what its allocator holds for all engines together
    return call_in_child(_peak_ram, (folder, images, threads), Progress())


def _peak_ram(folder: Path, images: NDArray[np.uint8], threads: int, progress: Progress) -> int:
    before = own_memory("VmRSS")
    _, runner = load_engine(folder, threads)
    with runner:
        feeds = {runner.inputs[0].name: images}
        for _ in range(3):
            runner.infer(feeds)
    return max(own_memory("VmHWM") - before, 0)


def own_memory(key: str) -> int:
    """One line of /proc/self/status in bytes: `VmRSS` is this process's memory now, `VmHWM` its highest so far.

    `ru_maxrss` would not do: it starts at the memory of the parent process.
    """
    match = re.search(rf"^{key}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert match is not None, f"{_STATUS} has no {key}"
    return int(match[1]) * 1024
