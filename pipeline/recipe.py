"""The recipe: one YAML file, read and validated here and nowhere else."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.engines.engine import EngineSpec


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


def _off(value: object) -> object:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch and NumPy both take
# What a graph computes in; `-fp16` is the same graph with FP16 in place of the FP32 that is left in it.
Precision = Literal[
    "fp32", "fp16", "int8", "int8-fp16", "fp8", "fp8-fp16", "int8-sparse", "int8-sparse-fp16",
    "int8-qat", "int8-qat-fp16", "auto", "auto-fp16",
]  # fmt: skip
Pattern = Annotated[str, AfterValidator(_compiles)]
Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _GrowingPart(_Part):
    """A part with keys that came later, named in `LATER`: they are written out only where they are not at their default,
    so that the stage keys of runs from before, and their interrupted trainings, stay valid."""

    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_untouched(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        untouched = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in write(self).items() if name not in untouched}


class DataPart(_GrowingPart):
    """Image folders `root/train/<class>/*` and `root/val/<class>/*`, or what they are written out from on first use.

    `source` webdataset: `origin` is a folder of shards, `splits` are globs in it; huggingface: `origin` is a data set's name
    or folder, `splits` its splits, `columns` image and label. docs/training.md says more.
    """

    LATER = frozenset({"source", "origin", "splits", "columns"})

    name: Annotated[str, Field(min_length=1)]
    root: Path
    source: Literal["folders", "webdataset", "huggingface"] = "folders"
    origin: str | None = None
    splits: tuple[str, str] | None = None
    columns: tuple[str, str] = ("image", "label")

    @model_validator(mode="after")
    def _origin(self) -> "DataPart":
        if (self.source == "folders") != (self.origin is None):
            raise ValueError("origin goes with source webdataset (a folder of shards) or huggingface (a data set)")
        return self


class ModelPart(_Part):
    """A timm model by `name` (ours included), or what `factory` ("package.module:callable") makes; `args` are its options.

    `checkpoint` is where its weights come from, if not from training or the factory. `transfer` also takes one for other
    classes or another image size: the classifier starts afresh, and `positions` says what becomes of the position
    embedding: the checkpoint's, interpolated as upstream does, or the sinusoid of the new size.
    """

    name: str | None = None
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = None
    args: dict[str, Any] = {}
    image_size: Positive
    checkpoint: Path | None = None
    transfer: bool = False
    positions: Literal["interpolate", "sinusoid"] = "interpolate"

    @model_validator(mode="after")
    def _name_or_factory(self) -> "ModelPart":
        if (self.name is None) == (self.factory is None):
            raise ValueError("name (a timm model) or factory (package.module:callable), one of the two")
        if self.transfer and self.checkpoint is None:
            raise ValueError("transfer needs a checkpoint to start from")
        return self

    @property
    def label(self) -> str:
        """What messages and the report call it."""
        return self.name or str(self.factory)


class PreprocessPart(_Part):
    """Resize, crop and normalisation, for 0–1 RGB values."""

    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.9
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class TrainPart(_GrowingPart):
    """timm's training recipe; `batch_size` is per process, `lr` is the peak learning rate as given (never rescaled).

    `global_batch` images make an update: where all processes together hold fewer, gradients are accumulated; where they
    hold more, each takes its equal share. Without it, each step of the processes is an update. `save_every` counts
    updates; without it, `last.pt` is written every epoch. `on_nan: skip` leaves out an update whose loss is not finite,
    but stops after `max_skipped` in a row.

    All but the classifier learn at `lr` times `backbone_lr_ratio`: transfer learning wants the new classifier fast and
    the taken-over weights slow.
    """

    LATER = frozenset({
        "global_batch", "cooldown_epochs", "channels_last", "save_every", "keep_last", "keep_best", "on_nan",
        "max_skipped", "wandb",
    })  # fmt: skip

    epochs: Annotated[int, Field(ge=0)] = 310
    batch_size: Positive = 64
    global_batch: Positive | None = None
    optimizer: str = "adamw"
    lr: Annotated[float, Field(gt=0)] = 5e-4
    backbone_lr_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    cooldown_epochs: Annotated[int, Field(ge=0)] = 0  # the last ones, all at min_lr
    label_smoothing: Fraction = 0.1
    mixup: Annotated[float, Field(ge=0)] = 0.8
    cutmix: Annotated[float, Field(ge=0)] = 1.0
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    random_erasing: Fraction = 0.25
    random_resize_scale: tuple[float, float] = (0.08, 1.0)
    random_crop_padding: Fraction = 0.0  # above 0: a random crop of the image padded so much, not of a random scale
    horizontal_flip: Fraction = 0.5
    drop_path: Fraction = 0.1
    ema_decay: Fraction = 0.99996
    clip_grad: Annotated[float, Field(gt=0)] | None = None
    amp: Annotated[Literal["off", "bfloat16", "float16"], BeforeValidator(_off)] = "off"
    channels_last: bool = False
    compile: bool = False
    on_nan: Literal["stop", "skip"] = "stop"
    max_skipped: Positive = 10
    workers: Annotated[int, Field(ge=0)] = 2
    eval_every: Positive = 1
    save_every: Positive | None = None
    keep_last: Positive = 1
    keep_best: bool = False
    wandb: str | None = None
    seed: Seed = 0


class ExportPart(_Part):
    """ONNX export; `simplify` runs onnxsim, guarded."""

    opset: Annotated[int, Field(ge=17, le=22)] = 20
    simplify: bool = True


class CalibratePart(_Part):
    """The calibration set: `images` drawn class-balanced from the training split, or from `source` where that is given.

    `source` is a folder of images (with or without class folders) or an npz with `images`, uint8 RGB (N, H, W, 3).
    """

    images: Positive = 512
    seed: Seed = 0
    source: Path | None = None


class QuantizePart(_Part):
    """Which graphs are made from the FP32 one, and how.

    `policy` and `method` are explained in docs/quantization.md. `include` and `exclude` are regular expressions for the
    names of nodes or modules: what they match whole is quantized beside the policy's choice, or is not.
    """

    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-fp16")
    policy: Literal["weights", "+attention", "+residual", "full"] = "weights"
    method: Literal["max", "entropy", "percentile", "mse", "smoothquant"] = "max"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    smooth_alphas: tuple[Fraction, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    weight_bits: Literal[4, 8] = 8
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()


class SensitivityPart(_Part):
    """Each layer and each group of layers quantized alone, on `images` calibration images."""

    images: Positive = 64


class SearchPart(_Part):
    """Precision `auto`: the fastest mix of INT8 and FP32 layers on `backend` that loses at most `max_drop_pp` points.

    With `budget_ms` it is the most accurate mix with a median latency of at most so many milliseconds. It decides on
    `images` training images that are not in the calibration set, never on the evaluation images.
    """

    backend: Literal["onnxruntime", "openvino", "tensorrt"] = "openvino"
    images: Positive = 512
    max_drop_pp: Annotated[float, Field(ge=0)] = 0.3
    budget_ms: Annotated[float, Field(gt=0)] | None = None
    seed: Seed = 0


class QatPart(_Part):
    """Quantization-aware training of the trained network for `int8-qat`, with the FP32 network as the teacher.

    The loss is `distill` times the Kullback-Leibler divergence from the teacher at `temperature`, plus (1 − `distill`)
    times the cross-entropy of the labels.
    """

    epochs: Positive = 2
    batch_size: Positive = 64
    lr: Annotated[float, Field(gt=0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    distill: Fraction = 1.0
    temperature: Annotated[float, Field(gt=0)] = 2.0
    clip_grad: Annotated[float, Field(gt=0)] | None = 1.0
    workers: Annotated[int, Field(ge=0)] = 2
    seed: Seed = 0


class BuildOptionsPart(_Part):
    """How TensorRT builds; docs/tensorrt.md has the reason for each."""

    workspace_mib: Annotated[int, Field(ge=16)] = 1024
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    timing_cache: bool = True
    hardware: Literal["this_gpu", "same_compute_capability", "ampere_plus"] = "this_gpu"
    version_compatible: bool = False
    strip_weights: bool = False


class EnginePart(_Part):
    """Engines of one backend: a precision each, for `tensorrt_rtx` times a target (`sm86`) each."""

    backend: Backend
    precisions: tuple[Precision, ...]
    targets: tuple[Annotated[str, Field(pattern=r"^sm\d{2,3}$")], ...] = ()
    batch_sizes: tuple[Positive, Positive, Positive] = (1, 1, 8)
    options: BuildOptionsPart = BuildOptionsPart()

    @model_validator(mode="after")
    def _targets(self) -> "EnginePart":
        if (self.backend == "tensorrt_rtx") != bool(self.targets):
            raise ValueError("targets go with backend tensorrt_rtx, and it needs at least one, such as sm86")
        if self.backend in ("onnxruntime", "openvino") and any(name.startswith("fp8") for name in self.precisions):
            raise ValueError("fp8 goes with tensorrt and tensorrt_rtx: CPU engines have no FP8 kernels")
        if self.backend in ("onnxruntime", "openvino") and self.options != BuildOptionsPart():
            raise ValueError("options are TensorRT's: onnxruntime and openvino have none")
        if self.backend == "tensorrt_rtx" and (self.options.hardware != "this_gpu" or self.options.version_compatible):
            raise ValueError("hardware and version_compatible go with tensorrt: tensorrt_rtx builds for its targets")
        low, typical, high = self.batch_sizes
        if not low <= typical <= high:
            raise ValueError("batch_sizes are minimum, typical and maximum, in rising order")
        return self


class EvaluatePart(_Part):
    batch_size: Positive = 50


class BenchmarkPart(_Part):
    """`rounds` interleaved rounds of `calls` timed calls per engine and batch size, after `warmup` calls.

    The warm-up takes `warmup_ms` milliseconds at least. On a GPU, engines run as a `cuda_graph` where they can, and the
    CPU waits asleep unless `spin` is set. Energy is measured over `energy_seconds` of load; 0 measures none.
    """

    batch_sizes: tuple[Positive, ...] = (1, 8)
    warmup: Positive = 10
    warmup_ms: Annotated[int, Field(ge=0)] = 200
    cuda_graph: bool = True
    spin: bool = False
    energy_seconds: Annotated[float, Field(ge=0)] = 2.0
    rounds: Positive = 10
    calls: Positive = 30
    threads: Positive = 2


class VisualizePart(_Part):
    """Feature maps of `blocks` blocks, FP32 beside one engine; `precision` None is int8 where it is made, else the last.

    Statistics of `images` calibration images; the picture shows `channels` channels of evaluation image `image`.
    """

    backend: Backend = "onnxruntime"
    precision: Precision | None = None
    images: Positive = 64
    blocks: Annotated[int, Field(ge=2, le=32)] = 8
    channels: Annotated[int, Field(ge=1, le=64)] = 16
    image: Annotated[int, Field(ge=0)] = 0


class GatePart(_Part):
    min_relative_top1: Fraction = 0.99


class Recipe(_Part):
    """Everything a run needs. Each stage's key is the part of the recipe that it reads (`pipeline.stages`)."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    data: DataPart
    model: ModelPart
    preprocess: PreprocessPart = PreprocessPart()
    train: TrainPart = TrainPart()
    export: ExportPart = ExportPart()
    calibrate: CalibratePart = CalibratePart()
    quantize: QuantizePart = QuantizePart()
    sensitivity: SensitivityPart = SensitivityPart()
    search: SearchPart = SearchPart()
    qat: QatPart = QatPart()
    build: tuple[EnginePart, ...]
    evaluate: EvaluatePart = EvaluatePart()
    benchmark: BenchmarkPart = BenchmarkPart()
    gate: GatePart = GatePart()
    visualize: VisualizePart = VisualizePart()

    @model_validator(mode="after")
    def _engines_have_graphs(self) -> "Recipe":
        missing = {precision for part in self.build for precision in part.precisions} - set(self.quantize.precisions)
        if missing:
            raise ValueError(f"build asks for {sorted(missing)}, which quantize.precisions does not make")
        if self.visualized_precision() not in self.quantize.precisions:
            raise ValueError(
                f"visualize.precision asks for {self.visualized_precision()}, which quantize.precisions does not make"
            )
        if self.train.epochs == 0 and self.model.checkpoint is None and self.model.factory is None:
            raise ValueError("train.epochs is 0, so model.checkpoint must name the weights")
        return self

    @model_validator(mode="after")
    def _engines_have_names_of_their_own(self) -> "Recipe":
        """An engine's folder is called by backend, precision and target: two of one name cannot both be kept."""
        names = [
            EngineSpec(part.backend, precision, target, part.batch_sizes).name
            for part in self.build for precision in part.precisions for target in part.targets or (None,)
        ]  # fmt: skip
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"build makes {', '.join(twice)} more than once: name each precision and target once")
        return self

    def visualized_precision(self) -> Precision:
        """The precision of the engine that feature maps are compared with."""
        made = self.quantize.precisions
        return self.visualize.precision or ("int8" if "int8" in made or not made else made[-1])

    def preprocess_spec(self) -> Preprocess:
        """The preprocessing spec of this recipe."""
        size, part = self.model.image_size, self.preprocess
        return Preprocess(size, size, part.crop_pct, part.interpolation, part.mean, part.std)


def keys_of(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Of a recipe's plain values, the parts and the single keys (`quantize.policy`) that are named, as far as they are there."""
    found: dict[str, Any] = {}
    for key in keys:
        part, _, name = key.partition(".")
        if part in values and not name:
            found[part] = values[part]
        elif part in values and name in values[part]:
            found[part] = found.get(part, {}) | {name: values[part][name]}
    return found


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file; every problem in it is named in one InputError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        recipes = ", ".join(sorted(str(found) for found in Path("recipes").glob("*.yaml"))) or "none in recipes/"
        raise InputError("no such recipe", got=path, allowed=recipes) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"the recipe {path} cannot be read as YAML", got=" ".join(str(error).split())) from error
    if not isinstance(values, dict):
        raise InputError(f"the recipe {path} is not a mapping", got=type(values).__name__, allowed="keys and values")
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"the recipe {path} has {error.error_count()} wrong value(s)",
            got="; ".join(_problem(problem) for problem in error.errors()),
            allowed="the keys of docs/recipe.md", next_step=f"edit {path}",
        ) from error  # fmt: skip


def _problem(problem: Any) -> str:
    """`train.lr = -1: Input should be greater than 0`."""
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key"
    if problem["type"] == "missing":
        return f"{key}: missing"
    shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
    return f"{key}{shown}: {problem['msg'].removeprefix('Value error, ')}"
