"""An engine that fails at run time, for tests of what that costs."""

from pathlib import Path
from typing import Any

import pytest

from export.engines.engine import load_engine
from export.engines.sidecar import Sidecar
from export.engines.tensorrt.cuda_calls import CudaError
from export.runner import INPUT, Runner

OUT_OF_MEMORY = "cudaMalloc: out of memory"


class FailingRunner:
    """A real engine's runner until a batch has more than `most` images."""

    def __init__(self, runner: Runner, most: int):
        self._runner, self._most = runner, most
        self.inputs, self.outputs = runner.inputs, runner.outputs

    def infer(self, feeds: Any) -> Any:
        if len(feeds[INPUT]) > self._most:
            raise CudaError(OUT_OF_MEMORY)
        return self._runner.infer(feeds)

    def __enter__(self) -> "FailingRunner":
        return self

    def __exit__(self, *_: Any) -> None:
        raise CudaError(OUT_OF_MEMORY)  # an error of CUDA comes back at every later call


def fail_engine(monkeypatch: pytest.MonkeyPatch, name: str, most: int | None, *modules: str) -> None:
    """In `modules` the engine `name` fails: when it is loaded (`most` None), or at a batch of more than `most`."""

    def load(folder: Path, *rest: Any, **named: Any) -> tuple[Sidecar, Any]:
        sidecar, runner = load_engine(folder, *rest, **named)
        if folder.name != name:
            return sidecar, runner
        if most is None:
            raise CudaError(OUT_OF_MEMORY)
        return sidecar, FailingRunner(runner, most)

    for module in modules:
        monkeypatch.setattr(f"pipeline.{module}.load_engine", load)
