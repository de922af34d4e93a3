"""OpenVINO on the CPU: the engine is its IR (xml + bin); INT8 Q/DQ graphs run as real INT8.

What is left in floating point is computed in FP32, or with `bf16` in BF16 but for the nodes that the graph names.
"""

import os
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.cpu import adds_pairs_in_16_bits, bf16_instructions
from export.engines.openvino_bf16 import check_pins, held_names, hold_in_fp32, mark_ir
from export.engines.openvino_weights import fit_16_bits
from export.runner import Arrays, Engine, TensorInfo, Unavailable, check_feeds, in_fixed_batches

ENGINE_NAME = "engine.xml"
INSTALL = "pip install -e '.[openvino]'"
INSTALL_ON_DEVICE = "pip install openvino"
_KINDS = {"i8": "int8", "u8": "int8", "bf16": "bf16", "f16": "fp16"}
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


def build(onnx_path: Path, engine_path: Path, *, bf16: bool = False) -> Engine:
    """Convert the graph to IR beside `engine_path` (.xml, and .bin for the weights) and compile it once.

    RuntimeError with `bf16` where OpenVINO computes in BF16 what its graph lists (`FP32_TENSORS`), or every product in FP32.
    """
    _check_available(bf16)
    partial = convert(onnx_path, engine_path.with_name(f"partial-{engine_path.name}"), bf16=bf16)
    layers = _count_layers(_compile(partial, threads=1, bf16=bf16))
    if bf16 and not layers.get("bf16") and not layers["int8"]:
        raise RuntimeError("OpenVINO computes no product of this graph in BF16 or INT8")
    os.replace(partial.with_suffix(".bin"), engine_path.with_suffix(".bin"))
    os.replace(partial, engine_path)
    return Engine(engine_path, layers)


def convert(onnx_path: Path, engine_path: Path, *, bf16: bool = False) -> Path:
    """Write the graph as IR to `engine_path` and give that back; with `bf16` it says what stays in FP32."""
    import openvino

    model = openvino.Core().read_model(str(onnx_path))
    if bf16:
        hold_in_fp32(model)
    openvino.save_model(model, str(engine_path), compress_to_fp16=False)
    if bf16:
        mark_ir(engine_path, held_names(model))
    return engine_path


def load(engine_path: Path, threads: int, *, bf16: bool = False) -> "OpenVinoRunner":
    """A runner on `threads` CPU threads. RuntimeError as `build`: another CPU may execute other operations."""
    _check_available(bf16)
    return OpenVinoRunner(engine_path, threads, bf16)


def _check_available(bf16: bool) -> None:
    check_available_to_run()
    if bf16 and not bf16_instructions():
        raise Unavailable("this CPU has no BF16 instructions: neither AVX512_BF16 nor AMX_BF16")


def _count_layers(compiled: Any) -> dict[str, int]:
    """The products that are executed, by what they compute in; `bf16` only where there are any."""
    layers = Counter(int8=0, fp16=0, fp32=0)
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _PRODUCTS:
            layers[_KINDS.get(info["runtimePrecision"].astype(str), "fp32")] += 1
    return dict(layers)


def _compile(path: Path, threads: int, bf16: bool) -> Any:
    import openvino

    # Without this hint OpenVINO runs FP32 graphs in BF16 where the CPU has it.
    config = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads), "CPU_DENORMALS_OPTIMIZATION": True,  # the performer makes subnormal numbers: slow
    }  # fmt: skip
    core = openvino.Core()
    model = core.read_model(str(path))
    if adds_pairs_in_16_bits():
        fit_16_bits(model)
    compiled = core.compile_model(model, "CPU", config)
    if bf16:
        check_pins(compiled.get_runtime_model(), model)
    return compiled


class OpenVinoRunner:
    """Runs one IR; see `export.runner.Runner`."""

    def __init__(self, engine_path: Path, threads: int, bf16: bool):
        compiled = _compile(engine_path, threads, bf16)
        self.inputs = tuple(_info(port) for port in compiled.inputs)
        self.outputs = tuple(_info(port) for port in compiled.outputs)
        self._request = compiled.create_infer_request()

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        return in_fixed_batches(self.inputs, feeds, self._run)

    def _run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
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
