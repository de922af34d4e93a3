"""`data`: the images."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.parts.part import Part


class DataPart(Part):
    """Image folders `root/train/<class>/*` and `root/val/<class>/*`, or what they are written out from on first use.

    `source` webdataset: `origin` is a folder of shards, `splits` are globs in it; huggingface: `origin` is a data set's name
    or folder, `splits` its splits, `columns` image and label. docs/training.md says more.

    With `check`, all images are decoded once before the first training step.
    """

    name: Annotated[str, Field(min_length=1)]
    """What the report calls the images."""
    root: Path
    """The folder with train/<class>/* and val/<class>/*, relative to the folder that commands run in. Where it does not exist,
    <root>.npz is unpacked to it.
    """
    source: Literal["folders", "webdataset", "huggingface"] = "folders"
    """What root is written from where it does not exist."""
    origin: str | None = None
    """webdataset: a folder of shards; huggingface: a data set's name or folder."""
    splits: tuple[str, str] | None = None
    """Train and val: globs of shards, or the data set's splits."""
    columns: tuple[str, str] = ("image", "label")
    """huggingface: the columns of image and label."""
    check: bool = True
    """Decode all images once before the first training step, so that damaged ones are named at once."""

    @model_validator(mode="after")
    def _origin(self) -> "DataPart":
        if (self.source == "folders") != (self.origin is None):
            raise ValueError("origin goes with source webdataset (a folder of shards) or huggingface (a data set)")
        return self
