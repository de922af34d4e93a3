"""`export`, `calibrate`, `quantize`, `sensitivity` and `search`: the graphs."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from calib.precision.policy import PolicyName
from pipeline.parts.part import Fraction, Part, Pattern, Positive, Precision, Seed


class ExportPart(Part):
    """ONNX export; `simplify` runs onnxsim, guarded."""

    opset: Annotated[int, Field(ge=17, le=22)] = 20
    simplify: bool = True


class CalibratePart(Part):
    """The calibration set: `images` drawn class-balanced from the training split, or from `source` where that is given.

    `source` is a folder of images (with or without class folders) or an npz with `images`, uint8 RGB (N, H, W, 3).
    None `images` are 512, or all there are where that is fewer; 512 in a recipe must be there, so it is not the default value.
    """

    images: Positive | None = None
    seed: Seed = 0
    source: Path | None = None


class QuantizePart(Part):
    """Which graphs are made from the FP32 one, and how.

    `policy` and `method` are explained in docs/quantization.md. `include` and `exclude` are regular expressions for the
    names of nodes or modules: what they match whole is quantized beside the policy's choice, or is not.
    """

    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-fp16")
    policy: PolicyName = "best"
    method: Literal["max", "entropy", "percentile", "mse", "smoothquant"] = "max"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    smooth_alphas: tuple[Fraction, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    weight_bits: Literal[4, 8] = 8
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()


class SensitivityPart(Part):
    """Each layer and each group of layers quantized alone, on `images` calibration images."""

    images: Positive = 64


class SearchPart(Part):
    """Precision `auto`: the fastest mix of INT8 and FP32 layers on `backend` that loses at most `max_drop_pp` points.

    With `budget_ms` it is the most accurate mix with a median latency of at most so many milliseconds. It decides on
    `images` training images that are not in the calibration set, never on the evaluation images.
    """

    backend: Literal["onnxruntime", "openvino", "tensorrt"] = "openvino"
    images: Positive = 512
    max_drop_pp: Annotated[float, Field(ge=0)] = 0.3
    budget_ms: Annotated[float, Field(gt=0)] | None = None
    seed: Seed = 0
