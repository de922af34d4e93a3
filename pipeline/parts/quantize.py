"""`export`, `calibrate`, `quantize`, `sensitivity` and `search`: the graphs."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from calib.precision.policy import PolicyName
from pipeline.parts.part import Fraction, Part, Pattern, Positive, Precision, Seed


class ExportPart(Part):
    """ONNX export; `simplify` runs onnxsim, guarded."""

    opset: Annotated[int, Field(ge=17, le=22)] = 20
    """Of ONNX."""
    simplify: bool = True
    """Whether onnxsim simplifies the graph; it is kept only if outputs stay the same."""


class CalibratePart(Part):
    """The calibration set: `images` drawn class-balanced from the training split, or from `source` where that is given.

    `source` is a folder of images (with or without class folders) or an npz with `images`, uint8 RGB (N, H, W, 3).
    None `images` are 512, or all there are where that is fewer; 512 in a recipe must be there, so it is not the default value.
    """

    images: Positive | None = None
    """Drawn evenly from the classes of train; without it 512, or all where there are fewer."""
    seed: Seed = 0
    """Of the draw."""
    source: Path | None = None
    """A folder of images or an npz to draw from instead."""


class QuantizePart(Part):
    """Which graphs are made from the FP32 one, and how.

    `policy` and `method` are explained in docs/quantization.md. `include` and `exclude` are regular expressions for the
    names of nodes or modules: what they match whole is quantized beside the policy's choice, or is not.
    """

    precisions: tuple[Precision, ...] = ("fp32",)
    """Which graphs are made, build's among them; left out, fp32 and those that the engines of build need."""
    policy: PolicyName = "best"
    """Which layers are in INT8: docs/quantization.md."""
    method: Literal["max", "entropy", "percentile", "mse", "smoothquant"] = "max"
    """How ranges are found."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """Of method percentile."""
    smooth_alphas: tuple[Fraction, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Tried by method smoothquant."""
    weight_bits: Literal[4, 8] = 8
    """8, or 4: seven steps of each sign, stored as INT8."""
    include: tuple[Pattern, ...] = ()
    """Regular expressions for whole names of modules or nodes to quantize as well."""
    exclude: tuple[Pattern, ...] = ()
    """Regular expressions for whole names of modules or nodes to leave in floating point."""


class SensitivityPart(Part):
    """Each layer and each group of layers quantized alone, on `images` calibration images."""

    images: Positive = 64
    """Calibration images to measure on."""


class SearchPart(Part):
    """Precision `auto`: the fastest mix of INT8 and FP32 layers on `backend` that loses at most `max_drop_pp` points.

    With `budget_ms` it is the most accurate mix with a median latency of at most so many milliseconds. It decides on
    `images` training images that are not in the calibration set, never on the evaluation images.
    """

    backend: Literal["onnxruntime", "openvino", "tensorrt"] = "openvino"
    """Whose latency is measured."""
    images: Positive = 512
    """Training images, none of them in the calibration set, that it decides on."""
    max_drop_pp: Annotated[float, Field(ge=0)] = 0.3
    """Percentage points of top-1, or of mIoU with data.task segmentation, that may be lost."""
    budget_ms: Annotated[float, Field(gt=0)] | None = None
    """Instead: the most accurate mix with a median latency of at most so many milliseconds."""
    seed: Seed = 0
    """Of the images drawn."""
