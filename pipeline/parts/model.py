"""`model` and `preprocess`: the network, and what goes into it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.parts.part import Part, PositiveNumber


class ModelPart(Part):
    """A timm model by `name` (ours included), or what `factory` ("package.module:callable") makes; `args` are its options.

    `checkpoint` is where its weights come from, if not from training or the factory. `transfer` also takes one for other
    classes or another image size: the classifier starts afresh, and `positions` says what becomes of the position
    embedding: the checkpoint's, interpolated as upstream does, or the sinusoid of the new size. `output` names the logits
    of a network that gives several results: a key, or a place counted from 0.
    """

    name: str | None = None
    """A network of timm, or of this project: t2t-edge models."""
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = None
    """Instead of name: package.module:callable, which makes the network."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Options of the network or factory."""
    image_size: Annotated[int, Field(gt=0, le=4096)]
    """Side of the square input, in pixels."""
    checkpoint: Path | None = None
    """A file of weights: to use as they are with train.epochs 0, else to start training from."""
    transfer: bool = False
    """Take a checkpoint of other classes or another image size: the classifier starts afresh."""
    positions: Literal["interpolate", "sinusoid"] = "interpolate"
    """With transfer, the position embedding: the checkpoint's, interpolated, or the sinusoid of the new size."""
    output: Annotated[int, Field(ge=0)] | str | None = None
    """Which of the network's results are the logits, where it gives several: a key, or a place counted from 0."""

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
