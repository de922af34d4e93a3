"""`model` and `preprocess`: the network, and what goes into it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.parts.part import Part, PositiveNumber


class ModelPart(Part):
    """A timm model by `name` (ours included), or what `factory` ("package.module:callable") makes; `args` are its options.

    `checkpoint` is where its weights come from, if not from training or the factory. `transfer` also takes one for other
    classes or another image size: the classifier starts afresh, and `positions` says what becomes of the position
    embedding: the checkpoint's, interpolated as upstream does, or the sinusoid of the new size.
    """

    name: str | None = None
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    image_size: Annotated[int, Field(gt=0, le=4096)]
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


class PreprocessPart(Part):
    """Resize, crop and normalisation, for 0–1 RGB values."""

    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.9
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveNumber, PositiveNumber, PositiveNumber] = (0.229, 0.224, 0.225)
