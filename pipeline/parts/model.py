"""`model` and `preprocess`: the network, and what goes into it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator
from pydantic.functional_validators import PlainValidator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

from calib.errors import InputError
from pipeline.parts.part import LEFT_OUT, Part, PositiveNumber

RGB_CHANNELS = 3
MAX_SIDE = 4096
# What a task has for a default of `preprocess` in place of the one below: of a scene all is to be classified, not its middle.
OF_TASK: dict[str, dict[str, Any]] = {"segmentation": {"crop_pct": 1.0}}
GREY_MEAN, GREY_STD = (0.459,), (0.226,)  # of ImageNet: its mean by luma, and the mean of its three standard deviations


def _image_size(value: Any) -> int | tuple[int, int]:
    """A side, or height and width; two that are equal are one side."""
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise PydanticCustomError("image_size", "Input should be a whole number, or a list of two: height and width")
    if not all(0 < side <= MAX_SIDE for side in sides):
        limit = f"less than or equal to {MAX_SIDE}" if max(sides) > MAX_SIDE else "greater than 0"
        raise PydanticCustomError("image_size", f"Input should be {limit}")
    return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])


def shown(size: int | tuple[int, int]) -> str:
    """An image size as a recipe writes it: `224`, or `[256, 128]`."""
    return str(size) if isinstance(size, int) else f"[{size[0]}, {size[1]}]"


_SIDE = {"type": "integer", "minimum": 1, "maximum": MAX_SIDE}
_SIDES = {"type": "array", "prefixItems": [_SIDE, _SIDE], "minItems": 2, "maxItems": 2}
ImageSize = int | tuple[int, int]  # side of a square, or (height, width); pixels
ImageSizeKey = Annotated[
    ImageSize,
    PlainValidator(_image_size),
    PlainSerializer(lambda size: size if isinstance(size, int) else list(size)),
    WithJsonSchema({"anyOf": [_SIDE, _SIDES]}),
]


class ModelPart(Part):
    """A timm model by `name` (ours included), or what `factory` ("package.module:callable") makes; `args` are its options. Or a
    finished network in an `onnx` file.

    `checkpoint` is where its weights come from, if not from training or the factory; with `pretrained` they are timm's own for
    this name, from the hub or its cache. `transfer` also takes a checkpoint for other classes or another image size: the
    classifier starts afresh, and `positions` says what becomes of the position embedding: the checkpoint's, interpolated as
    upstream does, or the sinusoid of the new size.

    `image_size` is the side of a square, or height and width; without it, it is the network's own (`pipeline.resolve`). With
    `in_chans` of 1 the network takes grey images. `output` names the logits of a network that gives several results: a key, or
    a place counted from 0.
    """

    name: str | None = None
    """A network of timm, or of this project: t2t-edge models."""
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = None
    """Instead of name: package.module:callable, which makes the network."""
    onnx: Annotated[Path | None, LEFT_OUT] = None
    """Instead of name: a file with a finished network, which is not trained."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Options of the network or factory."""
    image_size: ImageSizeKey | None = None
    """Side of the square input in pixels, or [height, width]; without it the network's own."""
    in_chans: Annotated[Literal[1, 3], Field(exclude_if=lambda channels: channels == RGB_CHANNELS)] = 3
    """1 for a network that takes grey images: the graph makes them grey."""
    checkpoint: Path | None = None
    """A file of weights: to use as they are with train.epochs 0, else to start training from."""
    pretrained: Annotated[bool, Field(exclude_if=lambda given: not given)] = False
    """timm's own weights for name, from the hub or its cache."""
    transfer: bool = False
    """Take a checkpoint of other classes or another image size: the classifier starts afresh."""
    positions: Literal["interpolate", "sinusoid"] = "interpolate"
    """With transfer, the position embedding: the checkpoint's, interpolated, or the sinusoid of the new size."""
    output: Annotated[Annotated[int, Field(ge=0)] | str | None, LEFT_OUT] = None
    """Which of the network's results are the logits, where it gives several: a key, or a place counted from 0."""

    @model_validator(mode="after")
    def _name_or_factory(self) -> "ModelPart":
        if sum(value is not None for value in (self.name, self.factory, self.onnx)) != 1:
            raise ValueError(
                "name (a timm model), factory (package.module:callable) or onnx (a file), one of the three"
            )
        if self.onnx is not None and (self.checkpoint is not None or self.args):
            raise ValueError("an onnx file has its weights and its form: checkpoint and args go with name or factory")
        if self.transfer and self.checkpoint is None:
            raise ValueError("transfer needs a checkpoint to start from")
        if self.pretrained and (self.name is None or self.checkpoint is not None):
            raise ValueError(
                "pretrained goes with name (a timm model, or hf-hub:owner/name), without checkpoint, factory and onnx"
            )
        if self.name is not None and "in_chans" in self.args:
            raise ValueError("args.in_chans is the key in_chans itself: preprocessing has to know it, too")
        return self

    @property
    def known_size(self) -> ImageSize:
        """`image_size`; InputError where neither the recipe nor the network says it."""
        if self.image_size is None:
            raise InputError(
                "the size of the network's images is not known", got=f"{self.label}, without model.image_size",
                allowed="side of the square input in pixels, or [height, width]", next_step="set model.image_size in the recipe",
            )  # fmt: skip
        return self.image_size

    @property
    def height_width(self) -> tuple[int, int]:
        """Of the images that the network takes, pixels; InputError as of `known_size`."""
        size = self.known_size
        return (size, size) if isinstance(size, int) else size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network takes."""
        return (self.in_chans, *self.height_width)

    @property
    def starts_with_weights(self) -> bool:
        """Whether it has weights before any training here, which its own preprocessing belongs to."""
        return self.pretrained or self.checkpoint is not None

    @property
    def label(self) -> str:
        """What messages and the report call it."""
        return self.name or (self.onnx.name if self.onnx is not None else str(self.factory))


def _listed(value: Any) -> Any:
    """A single number is the value of the only channel."""
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


_CHANNELS = Field(min_length=1, max_length=RGB_CHANNELS)


def _number_or_three(number: dict[str, Any]) -> WithJsonSchema:
    """In the recipe's JSON schema: a number, or a list of one or three."""
    lists = [{"type": "array", "items": number, "minItems": count, "maxItems": count} for count in (1, RGB_CHANNELS)]
    return WithJsonSchema({"anyOf": [number, *lists]})


class PreprocessPart(Part):
    """Resize, crop and normalisation, for 0–1 values: three of `mean` and `std`, or one for networks that take grey images."""

    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The shorter side is resized to image_size / crop_pct, then the centre is cropped."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How images are enlarged; made smaller, they are averaged over areas."""
    mean: Annotated[tuple[float, ...], BeforeValidator(_listed), _CHANNELS, _number_or_three({"type": "number"})] = (
        0.485,
        0.456,
        0.406,
    )
    """Of red, green and blue, or of grey, for values from 0 to 1."""
    std: Annotated[
        tuple[PositiveNumber, ...],
        BeforeValidator(_listed),
        _CHANNELS,
        _number_or_three({"type": "number", "exclusiveMinimum": 0}),
    ] = (0.229, 0.224, 0.225)
    """Of red, green and blue, or of grey, for values from 0 to 1."""
