"""ExecuTorch with XNNPACK: the engine is a `.pte` for one image at a time, or as many as the graph is fixed to."""

import os
import re
from importlib import metadata
from pathlib import Path

from export.engines.executorch.runner import ExecuTorchRunner
from export.runner import Engine, Unavailable

ENGINE_NAME = "engine.pte"
_PACKAGES = "'executorch>=1.3.1,<1.4' 'torchao>=0.17,<0.18' 'torch>=2.12,<2.13'"
INSTALL = "pip install -e '.[phones]'"
INSTALL_ON_DEVICE = f"pip install {_PACKAGES}"
_FITTING = {
    "1.3": "2.12"
}  # its compiled parts are PyTorch's of this release: with others it lowers, then fails when it runs


def version() -> str | None:
    """The installed ExecuTorch, None without one."""
    return _installed("executorch")


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_available_to_run() -> None:
    """Raise Unavailable where ExecuTorch is not installed, or beside another PyTorch than it was made for."""
    executorch, torch = version(), _installed("torch")
    if executorch is None:
        raise Unavailable(f"ExecuTorch is not installed: {INSTALL}")
    if torch is None or _FITTING.get(_release(executorch)) != _release(torch):
        raise Unavailable(f"ExecuTorch {executorch} does not fit PyTorch {torch or '(none)'}: {INSTALL}")


def check_available_to_build() -> None:
    """Raise Unavailable where `check_available_to_run` does, and without torchao."""
    check_available_to_run()
    if _installed("torchao") is None:
        raise Unavailable(f"torchao is not installed, which ExecuTorch lowers with: {INSTALL}")


def _release(text: str) -> str:
    """`2.12` of `2.12.1+cpu`."""
    return ".".join(re.findall(r"\d+", text)[:2])


def build(onnx_path: Path, engine_path: Path) -> Engine:
    """Lower the graph to XNNPACK and write the program to `engine_path`.

    `notes`: see `placed.Placed.notes`. RuntimeError where ExecuTorch cannot lower it, InputError for an operator that
    `export.program` does not know.
    """
    check_available_to_build()
    from export.engines.executorch.lower import lower

    lowered = lower(onnx_path)
    partial = engine_path.with_suffix(".partial")
    partial.write_bytes(lowered.program)
    os.replace(partial, engine_path)
    return Engine(engine_path, lowered.placed.layers, lowered.placed.notes())


def load(engine_path: Path, threads: int) -> ExecuTorchRunner:
    """A runner on `threads` CPU threads, 0 for the runtime's own choice. RuntimeError where the program cannot be loaded."""
    check_available_to_run()
    return ExecuTorchRunner(engine_path, threads)
