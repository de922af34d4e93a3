"""`model` and `preprocess`: the network, and what goes into it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from calib.errors import InputError
from pipeline.parts.part import Part, PositiveNumber


class ModelPart(Part):
    """A timm model by `name` (ours included), or what `factory` ("package.module:callable") makes; `args` are its options.

    `checkpoint` is where its weights come from, if not from training or the factory; with `pretrained` they are timm's own for
    this name, from the hub or its cache. `transfer` also takes a checkpoint for other classes or another image size: the
    classifier starts afresh, and `positions` says what becomes of the position embedding: the checkpoint's, interpolated as
    upstream does, or the sinusoid of the new size. Without `image_size` it is the network's own (`pipeline.resolve`).
    """

    name: str | None = None
    """A network of timm, or of this project: t2t-edge models."""
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = None
    """Instead of name: package.module:callable, which makes the network."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Options of the network or factory."""
    image_size: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Side of the square input, in pixels; without it the network's own."""
    checkpoint: Path | None = None
    """A file of weights: to use as they are with train.epochs 0, else to start training from."""
    pretrained: bool = False
    """timm's own weights for name, from the hub or its cache."""
    transfer: bool = False
    """Take a checkpoint of other classes or another image size: the classifier starts afresh."""
    positions: Literal["interpolate", "sinusoid"] = "interpolate"
    """With transfer, the position embedding: the checkpoint's, interpolated, or the sinusoid of the new size."""

    @model_validator(mode="after")
    def _name_or_factory(self) -> "ModelPart":
        if (self.name is None) == (self.factory is None):
            raise ValueError("name (a timm model) or factory (package.module:callable), one of the two")
        if self.transfer and self.checkpoint is None:
            raise ValueError("transfer needs a checkpoint to start from")
        if self.pretrained and (self.name is None or self.checkpoint is not None):
            raise ValueError(
                "pretrained goes with name (a timm model, or hf-hub:owner/name), without checkpoint and factory"
            )
        return self

    @property
    def side(self) -> int:
        """Of the square input, in pixels; InputError where neither the recipe nor the network says it."""
        if self.image_size is None:
            raise InputError(
                "the size of the network's images is not known", got=f"{self.label}, without model.image_size",
                allowed="side of the square input in pixels", next_step="set model.image_size in the recipe",
            )  # fmt: skip
        return self.image_size

    @property
    def starts_with_weights(self) -> bool:
        """Whether it has weights before any training here, which its own preprocessing belongs to."""
        return self.pretrained or self.checkpoint is not None

    @property
    def label(self) -> str:
        """What messages and the report call it."""
        return self.name or str(self.factory)


class PreprocessPart(Part):
    """Resize, crop and normalisation, for 0–1 RGB values."""

    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The shorter side is resized to image_size / crop_pct, then the centre is cropped."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How images are enlarged; made smaller, they are averaged over areas."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of red, green and blue, for values from 0 to 1."""
    std: tuple[PositiveNumber, PositiveNumber, PositiveNumber] = (0.229, 0.224, 0.225)
    """Of red, green and blue, for values from 0 to 1."""
