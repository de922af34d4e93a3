"""The graphs that are compared: ours, and what other tools make of the literal export with the same calibration images."""

import contextlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import onnx
from bench.peers.networks import Network

from calib.errors import InputError
from export.engines.cpu import cpu_facts
from export.onnx_export import INPUT
from export.quantize.int8 import quantize_int8
from export.quiet import quiet
from export.runner import Unavailable
from pipeline.parts.part import Precision
from pipeline.quantize.graphs import quantize_options

LITERAL, OURS_FP32, OURS_BF16, OURS = "literal FP32", "ours FP32", "ours BF16", "ours INT8"
NNCF, NNCF_ONNX, ORT, ORT_UINT8, MODELOPT = (
    "NNCF", "NNCF, of ONNX", "ONNX Runtime's quantizer", "ONNX Runtime's quantizer, uint8", "modelopt",
)  # fmt: skip
PEERS = (NNCF, NNCF_ONNX, ORT, ORT_UINT8, MODELOPT)
LABELS = (LITERAL, OURS_FP32, OURS_BF16, OURS, *PEERS)
TOOLS = ("onnxruntime", "openvino", "nncf", "nvidia-modelopt", "torch", "timm")  # whose versions a result depends on


def write_graph(label: str, backend: str, network: Network, fp32: dict[str, Path], folder: Path) -> Path:
    """The graph of a row for a backend. Unavailable where it cannot be made here, InputError where a tool stops at it."""
    if label == LITERAL:
        if "literal" not in fp32:
            raise Unavailable("the network has one form only")
        return fp32["literal"]
    if label in (OURS_FP32, OURS_BF16, OURS):
        return our_graph(backend, label.split()[1].lower(), network, fp32["ours"], folder)
    return other_graph(label, backend, network, fp32.get("literal", fp32["ours"]), folder)


def our_graph(backend: str, precision: str, network: Network, source: Path, folder: Path) -> Path:
    """The graph of one of our precisions as the pipeline makes it for a backend: the same for both, as yet."""
    if precision == "bf16":
        if reason := no_bf16(backend):
            raise Unavailable(reason)
        raise AssertionError("the project has the precision bf16: make its graph here")
    if precision == "fp32":
        return source
    target = folder / "ours-int8.onnx"
    if not target.is_file():
        quantize_int8(source, target, network.calibration, quantize_options(network.part))
    return target


def no_bf16(backend: str) -> str:
    """Why there is no BF16 on a backend here; "" where there is."""
    if backend != "openvino":
        return "on a CPU OpenVINO alone computes in BF16"
    if not {"avx512_bf16", "amx_bf16"} & set(cpu_facts().get("flags", "").split()):
        return "this CPU has neither AVX512_BF16 nor AMX"
    return "" if "bf16" in get_args(Precision) else "the project has no precision bf16"


def other_graph(label: str, backend: str, network: Network, source: Path, folder: Path) -> Path:
    """What another tool makes of `source`, with its defaults unless the label says otherwise; written once for both backends.

    NNCF reads OpenVINO's own form of the graph for OpenVINO, and ONNX.
    """
    if label == NNCF and backend != "openvino":
        raise Unavailable(f"it is made for OpenVINO: see {NNCF_ONNX!r}")
    suffix = "xml" if label == NNCF else "onnx"
    target = folder / f"{label.replace(' ', '-')}.{suffix}"
    stopped = target.with_suffix(".stopped")
    if stopped.is_file():  # once for both backends
        raise InputError(stopped.read_text(encoding="utf-8"))
    if not target.is_file():
        makers: dict[str, Callable[[Network, Path, Path], None]] = {
            NNCF: nncf_openvino, NNCF_ONNX: nncf_onnx, ORT: onnxruntime_int8, ORT_UINT8: onnxruntime_uint8, MODELOPT: modelopt,
        }  # fmt: skip
        try:
            with quiet():
                makers[label](network, source, target)
        except Unavailable:
            raise
        except Exception as error:  # whatever another tool stops with is its result here
            reason = f"it stops: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            stopped.write_text(reason, encoding="utf-8")
            raise InputError(reason) from error
    return target


def _nncf_quantize(model: Any, network: Network) -> Any:
    """A model with NNCF's INT8; transformers are named as such, which it advises."""
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise Unavailable("pip install -e '.[bench]'") from error
    images = [network.calibration.images[index : index + 1] for index in range(len(network.calibration))]
    return nncf.quantize(
        model, nncf.Dataset(images, lambda image: {INPUT: image}), subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER if network.transformer else None,
    )  # fmt: skip


def nncf_openvino(network: Network, source: Path, target: Path) -> None:
    import openvino

    openvino.save_model(
        _nncf_quantize(openvino.Core().read_model(str(source)), network), str(target), compress_to_fp16=False
    )


def nncf_onnx(network: Network, source: Path, target: Path) -> None:
    onnx.save(_nncf_quantize(onnx.load(source), network), target)


def onnxruntime_int8(network: Network, source: Path, target: Path, **options: Any) -> None:
    """`quantize_static` behind `quant_pre_process`, as its documentation advises; activations int8, one scale for all weights."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(network.calibration.images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT: image[None]}

    prepared = target.with_suffix(".prepared")
    quant_pre_process(str(source), str(prepared))
    quantize_static(str(prepared), str(target), Reader(), **options)


def onnxruntime_uint8(network: Network, source: Path, target: Path) -> None:
    """With activations in uint8, which CPUs with VNNI multiply with int8 weights, and a scale for each output channel."""
    from onnxruntime.quantization import QuantType

    onnxruntime_int8(network, source, target, activation_type=QuantType.QUInt8, per_channel=True)


def modelopt(network: Network, source: Path, target: Path) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source), quantize_mode="int8", calibration_data={INPUT: network.calibration.images}, calibration_eps=["cpu"],
        high_precision_dtype="fp32", output_path=str(target), log_level="ERROR",
    )  # fmt: skip


def installed() -> dict[str, str | None]:
    """The versions of the tools, None of those not installed."""
    found: dict[str, str | None] = dict.fromkeys(TOOLS)
    for name in TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
