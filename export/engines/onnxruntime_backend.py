"""ONNX Runtime on the CPU: the engine is the graph itself, optimised at load; it is also the reference for others."""

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.cpu import adds_pairs_in_16_bits, available_cpus
from export.runner import Arrays, Engine, TensorInfo, Unavailable, check_feeds, in_fixed_batches

ENGINE_NAME = "engine.onnx"
INSTALL = "pip install -e '.[onnxruntime]'"
INSTALL_ON_DEVICE = "pip install onnxruntime"
_INT8_OPERATORS = (
    "QLinearMatMul",
    "QLinearConv",
    "QGemm",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "ConvInteger",
)
_FLOAT_OPERATORS = ("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv", "NhwcFusedConv")


def version() -> str | None:
    """The installed ONNX Runtime, None without one."""
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return None


def check_available_to_run() -> None:
    """Raise Unavailable where ONNX Runtime is not installed."""
    if version() is None:
        raise Unavailable(f"ONNX Runtime is not installed: {INSTALL}")


check_available_to_build = check_available_to_run  # both need the package alone


def build(onnx_path: Path, engine_path: Path) -> Engine:
    """Copy the graph to `engine_path` and load it once, which is where a graph it cannot run fails."""
    check_available_to_run()
    partial = engine_path.with_suffix(".partial")
    shutil.copyfile(onnx_path, partial)
    layers = _count_layers(partial)
    os.replace(partial, engine_path)
    return Engine(engine_path, layers)


def load(engine_path: Path, threads: int, *, literal: bool = False) -> "OnnxRuntimeRunner":
    """A runner on `threads` CPU threads, 0 for all; `literal` computes node by node as written, Q/DQ in float32, slowly."""
    check_available_to_run()
    return OnnxRuntimeRunner(engine_path, threads, literal)


class OnnxRuntimeRunner:
    """Runs one graph; see `export.runner.Runner`. RuntimeError where ONNX Runtime cannot load or run it."""

    def __init__(self, engine_path: Path, threads: int, literal: bool = False):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()  # its own choice is every core of the machine
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if literal:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if adds_pairs_in_16_bits():
            # These sums overflow: logits up to 40 % off in one layer. The exact way costs about 6 % there; where the CPU adds in
            # 32 bits it computes the same, at up to twice the time.
            options.add_session_config_entry("session.x64quantprecision", "1")
        # The performer's exponentials make subnormal numbers, which CPUs compute many times slower; 0 is as good.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self._session = _session(engine_path, options)
        self.inputs = tuple(_info(value) for value in self._session.get_inputs())
        self.outputs = tuple(_info(value) for value in self._session.get_outputs())

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        return in_fixed_batches(self.inputs, feeds, self._run)

    def _run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        check_feeds(self.inputs, feeds)
        names = [info.name for info in self.outputs]
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's own errors have nothing else in common
            raise RuntimeError(f"ONNX Runtime: {error}") from error
        return dict(zip(names, values, strict=True))

    def __enter__(self) -> "OnnxRuntimeRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session


def _session(path: Path, options: Any) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as in `infer`
        raise RuntimeError(f"ONNX Runtime: {error}") from error


def _info(value: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    return TensorInfo(value.name, shape, np.dtype({"float": "float32", "double": "float64"}.get(dtype, dtype)).name)


def _count_layers(path: Path) -> dict[str, int] | None:
    """Weight and attention products by precision, read from the graph that ONNX Runtime optimised for this CPU."""
    import onnxruntime

    try:
        import onnx
    except ModuleNotFoundError:  # a device has no onnx; the count is then not measured
        return None
    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        _session(path, options)
        graph = onnx.load(options.optimized_model_filepath).graph
    int8 = sum(node.op_type in _INT8_OPERATORS for node in graph.node)
    # The CPU provider computes FP16 products in FP32, between casts that it inserts.
    return {"int8": int8, "fp16": 0, "fp32": sum(node.op_type in _FLOAT_OPERATORS for node in graph.node)}
