"""The training and the evaluation images, and preprocessed batches of a split."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from calib.images import ImageSplit
from calib.preprocess import Image, Preprocess, load_batch
from pipeline.console.progress import track
from pipeline.tasks.task import task_named

if TYPE_CHECKING:  # the device side has no pydantic
    from pipeline.parts.data import DataPart
    from pipeline.recipe import Recipe

# Of a batch on a CPU: engines keep the memory of the largest batch that they have seen, and several are loaded at once. Swin-T at
# 224 px took 2 GB for 50 images, so nine graphs side by side 20.
MOST_PIXELS = 2**19


def fitting(batch_size: int, height: int, width: int) -> int:
    """`batch_size`, or so many images of `height` × `width` as have `MOST_PIXELS` together."""
    return max(1, min(batch_size, MOST_PIXELS // (height * width)))


def evaluation_split(recipe: "Recipe", classes: tuple[str, ...]) -> ImageSplit:
    """The `val` images; their classes must be among those of the checkpoint."""
    return task_named(recipe.data.task).read_split(recipe.data.root, "val", classes, may_lack=True)


def training_split(data: "DataPart", classes: tuple[str, ...] | None) -> ImageSplit:
    """The `train` images, of `classes` where these are known. Where the recipe names them, any may lack, and all of `train`, too:
    the result is then empty."""
    named = data.classes is not None
    if named and classes is not None and not (data.root / "train").is_dir():
        return ImageSplit(data.root / "train", classes, (), ())
    return task_named(data.task).read_split(data.root, "train", classes, may_lack=named)


def batches(split: ImageSplit, spec: Preprocess, batch_size: int, title: str = "") -> Iterator[Image]:
    """uint8 images (N, H, W, 3) in order, `batch_size` at a time or fewer where they are large (`fitting`).

    Shows progress under `title` where one is given.
    """
    size = fitting(batch_size, spec.height, spec.width)
    starts = range(0, len(split), size)
    for start in track(starts, title) if title else starts:
        yield load_batch(list(split.paths[start : start + size]), spec)
