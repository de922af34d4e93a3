"""Other tools' INT8 graphs: `python tools.py LABEL IMAGES.npy SOURCE.onnx TARGET [transformer]`, each in a process of its own.

modelopt replaces parts of ONNX Runtime's quantizer where it is imported; after it that quantizer stops at other networks.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUT = "images"
NNCF, NNCF_ONNX = "NNCF", "NNCF, of ONNX"
ORT, ORT_UINT8, MODELOPT = "ONNX Runtime's quantizer", "ONNX Runtime's quantizer, uint8", "modelopt"
MODELOPT_MAX = "modelopt, max"  # of `make quantization`
Images = NDArray[np.uint8]


def nncf_openvino(images: Images, transformer: bool, source: Path, target: Path) -> None:
    """NNCF on OpenVINO's own form of the graph."""
    import openvino

    model = _nncf_quantize(openvino.Core().read_model(str(source)), images, transformer)
    openvino.save_model(model, str(target), compress_to_fp16=False)


def nncf_onnx(images: Images, transformer: bool, source: Path, target: Path) -> None:
    """NNCF on the ONNX graph, for both engines."""
    import onnx

    onnx.save(_nncf_quantize(onnx.load(source), images, transformer), target)


def _nncf_quantize(model: Any, images: Images, transformer: bool) -> Any:
    """A model with NNCF's INT8; transformers are named as such, as it advises."""
    import nncf

    return nncf.quantize(
        model, nncf.Dataset([image[None] for image in images], lambda batch: {INPUT: batch}), subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )  # fmt: skip


def onnxruntime_int8(images: Images, transformer: bool, source: Path, target: Path, **options: Any) -> None:
    """`quantize_static` behind `quant_pre_process`, as ONNX Runtime advises; by default activations int8, one scale a weight."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Images] = iter(images)

        def get_next(self) -> dict[str, Images] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT: image[None]}

    prepared = target.with_suffix(".prepared")
    quant_pre_process(str(source), str(prepared))
    quantize_static(str(prepared), str(target), Reader(), **options)


def onnxruntime_uint8(images: Images, transformer: bool, source: Path, target: Path) -> None:
    """With activations in uint8, which CPUs with VNNI multiply with int8 weights, and a scale for each output channel."""
    from onnxruntime.quantization import QuantType

    onnxruntime_int8(images, transformer, source, target, activation_type=QuantType.QUInt8, per_channel=True)


def modelopt(images: Images, transformer: bool, source: Path, target: Path, method: str | None = None) -> None:
    """nvidia-modelopt's defaults, or another method of calibration; what it leaves in floating point stays in FP32."""
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source), quantize_mode="int8", calibration_data={INPUT: images}, calibration_eps=["cpu"],
        high_precision_dtype="fp32", output_path=str(target), log_level="ERROR", calibration_method=method,
    )  # fmt: skip


MAKERS: dict[str, Callable[[Images, bool, Path, Path], None]] = {
    NNCF: nncf_openvino, NNCF_ONNX: nncf_onnx, ORT: onnxruntime_int8, ORT_UINT8: onnxruntime_uint8, MODELOPT: modelopt,
    MODELOPT_MAX: partial(modelopt, method="max"),
}  # fmt: skip


if __name__ == "__main__":
    label, calibration, fp32, int8, *kind = sys.argv[1:]
    MAKERS[label](np.load(calibration), "transformer" in kind, Path(fp32), Path(int8))
