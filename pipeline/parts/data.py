"""`data`: the images."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from calib.images import read_class_names
from pipeline.parts.part import LEFT_OUT, Part

ClassName = Annotated[str, Field(min_length=1)]


SOURCES = {"classification": ("folders", "webdataset", "huggingface"), "segmentation": ("folders",)}  # by task


class DataPart(Part):
    """Image folders `root/train/<class>/*` and `root/val/<class>/*`, or what they are written out from on first use.

    `source` webdataset: `origin` is a folder of shards, `splits` are globs in it; huggingface: `origin` is a data set's name
    or folder, `splits` its splits, `columns` image and label. docs/training.md says more.

    `classes` are the names of the class folders in the order of the network's outputs, or a file with one a line; without it
    they are the folders, sorted by name. With it a class may have no images. With `check`, all images are decoded once before
    the first training step.
    """

    name: Annotated[str, Field(min_length=1)]
    """What the report calls the images."""
    task: Annotated[
        Literal["classification", "segmentation"], Field(exclude_if=lambda value: value == "classification")
    ] = "classification"
    """classification: a class for each image, its folder; segmentation: a class for each pixel, in a mask beside it."""
    root: Path
    """The folder with train/<class>/* and val/<class>/*, or with {train,val}/images/* and {train,val}/masks/*.png; relative to
    the folder that commands run in. Where it does not exist, <root>.npz or <root>.tar is unpacked to it.
    """
    source: Literal["folders", "webdataset", "huggingface"] = "folders"
    """What root is written from where it does not exist."""
    origin: str | None = None
    """webdataset: a folder of shards; huggingface: a data set's name or folder."""
    splits: tuple[str, str] | None = None
    """Train and val: globs of shards, or the data set's splits."""
    columns: tuple[str, str] = ("image", "label")
    """huggingface: the columns of image and label."""
    classes: Annotated[tuple[ClassName, ...] | Path | None, LEFT_OUT] = None
    """Names of the class folders in the order of the network's outputs, or a file with one a line. Without it: the folders of
    train, sorted by name.
    """
    check: bool = True
    """Decode all images once before the first training step, so that damaged ones are named at once."""

    @model_validator(mode="after")
    def _masks_are_in_folders(self) -> "DataPart":
        if self.source not in SOURCES[self.task]:
            raise ValueError(f"masks are read from folders: source {self.source} gives a class for each image only")
        return self

    @model_validator(mode="after")
    def _origin(self) -> "DataPart":
        if (self.source == "folders") != (self.origin is None):
            raise ValueError("origin goes with source webdataset (a folder of shards) or huggingface (a data set)")
        return self

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names that `classes` gives, of its file where it names one; None without."""
        return read_class_names(self.classes) if isinstance(self.classes, Path) else self.classes
