"""Compute graphs on an engine of a CPU backend, and on the reference: ONNX Runtime, node by node as written."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.engines import onnxruntime_backend, openvino_backend
from export.engines.executorch import backend as executorch_backend
from export.engines.spec import CPU_BACKENDS
from export.faults.first_wrong import Compute
from export.runner import INPUT, Runner


def on_engine(
    backend: str, images: NDArray[np.uint8], threads: int, built: tuple[onnx.ModelProto, Path] | None = None
) -> Compute:
    """Builds an engine of each graph, loads it and gives what it makes of `images` (N, H, W, 3). RuntimeError as they do.

    `built` is a graph and the folder with its engine, which is there already: ExecuTorch's are slow to build.
    """
    assert backend in CPU_BACKENDS, backend

    def compute(proto: onnx.ModelProto) -> NDArray[np.floating]:
        with tempfile.TemporaryDirectory() as scratch:
            if backend == "onnxruntime":
                runner: Runner = onnxruntime_backend.load(_write(proto, scratch), threads)
            elif backend == "openvino":
                converted = openvino_backend.convert(_write(proto, scratch), Path(scratch) / "engine.xml")
                runner = openvino_backend.load(converted, threads)
            elif built is not None and proto == built[0]:
                runner = executorch_backend.load(built[1] / executorch_backend.ENGINE_NAME, threads)
            else:
                engine = executorch_backend.build(
                    _write(proto, scratch), Path(scratch) / executorch_backend.ENGINE_NAME
                )
                runner = executorch_backend.load(engine.path, threads)
            return _only_output(runner, images)

    return compute


def on_reference(images: NDArray[np.uint8], threads: int) -> Compute:
    """Gives what a graph makes of `images` (N, H, W, 3) where nothing is fused and Q/DQ are computed as they stand."""

    def compute(proto: onnx.ModelProto) -> NDArray[np.floating]:
        with tempfile.TemporaryDirectory() as scratch:
            return _only_output(onnxruntime_backend.load(_write(proto, scratch), threads, literal=True), images)

    return compute


def _write(proto: onnx.ModelProto, scratch: str) -> Path:
    path = Path(scratch) / "graph.onnx"
    onnx.save(proto, path)
    return path


def _only_output(runner: Runner, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    with runner:
        (values,) = runner.infer({INPUT: images}).values()
        return np.asarray(values)
