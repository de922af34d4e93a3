"""OpenVINO on the CPU: the engine is its IR (xml + bin); INT8 Q/DQ graphs run as real INT8."""

import os
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.engines.cpu import adds_pairs_in_16_bits
from export.engines.openvino_weights import fit_16_bits
from export.runner import Arrays, Engine, TensorInfo, Unavailable, check_feeds

ENGINE_NAME = "engine.xml"
INSTALL = "pip install -e '.[openvino]'"
INSTALL_ON_DEVICE = "pip install openvino"
_PRODUCTS = (
    "FullyConnected",
    "MatMul",
    "Convolution",
    "ScaledDotProductAttention",
    "ScaledDotProductAttentionWithKVCache",
)


def version() -> str | None:
    """The installed OpenVINO, None without one."""
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError:
        return None


def check_available_to_run() -> None:
    """Raise Unavailable where OpenVINO is not installed."""
    if version() is None:
        raise Unavailable(f"OpenVINO is not installed: {INSTALL}")


check_available_to_build = check_available_to_run  # both need the package alone


def build(onnx_path: Path, engine_path: Path) -> Engine:
    """Convert the graph to IR beside `engine_path` (.xml, and .bin for the weights) and compile it once."""
    check_available_to_run()
    partial = convert(onnx_path, engine_path.with_name(f"partial-{engine_path.name}"))
    compiled = _compile(partial, threads=1)
    layers = Counter(int8=0, fp16=0, fp32=0)
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _PRODUCTS:
            precision = {"i8": "int8", "u8": "int8", "f16": "fp16"}.get(info["runtimePrecision"].astype(str), "fp32")
            layers[precision] += 1
    os.replace(partial.with_suffix(".bin"), engine_path.with_suffix(".bin"))
    os.replace(partial, engine_path)
    return Engine(engine_path, dict(layers))


def convert(onnx_path: Path, engine_path: Path) -> Path:
    """Write the graph as IR to `engine_path` and give that back."""
    import openvino

    openvino.save_model(openvino.Core().read_model(str(onnx_path)), str(engine_path), compress_to_fp16=False)
    return engine_path


def load(engine_path: Path, threads: int) -> "OpenVinoRunner":
    """A runner on `threads` CPU threads."""
    check_available_to_run()
    return OpenVinoRunner(engine_path, threads)


def _compile(path: Path, threads: int) -> Any:
    import openvino

    # The precision is in the graph: without this hint OpenVINO may run FP32 graphs in bfloat16.
    config = {
        "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads), "CPU_DENORMALS_OPTIMIZATION": True,  # the performer makes subnormal numbers: slow
    }  # fmt: skip
    core = openvino.Core()
    model = core.read_model(str(path))
    if adds_pairs_in_16_bits():
        fit_16_bits(model)
    return core.compile_model(model, "CPU", config)


class OpenVinoRunner:
    """Runs one IR; see `export.runner.Runner`."""

    def __init__(self, engine_path: Path, threads: int):
        compiled = _compile(engine_path, threads)
        self.inputs = tuple(_info(port) for port in compiled.inputs)
        self.outputs = tuple(_info(port) for port in compiled.outputs)
        self._request = compiled.create_infer_request()

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        check_feeds(self.inputs, feeds)
        results = self._request.infer(dict(feeds), share_inputs=True)
        return {info.name: np.array(results[index]) for index, info in enumerate(self.outputs)}

    def __enter__(self) -> "OpenVinoRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._request


def _info(port: Any) -> TensorInfo:
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return TensorInfo(port.get_any_name(), shape, np.dtype(port.get_element_type().to_dtype()).name)
