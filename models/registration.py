"""Make a network known to timm, which looks models up by the name of the function that makes them."""

import sys
from collections.abc import Callable

from timm.models import register_model
from torch import nn

ImageSize = int | tuple[int, int]  # side of a square image, or (height, width); pixels


def register_variant(create: Callable[..., nn.Module], name: str, row: object) -> None:
    """Register `create` as `timm.create_model(name)`, a function of its own module; `row` describes it in its docstring."""
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}: {row}"
    setattr(sys.modules[create.__module__], name, create)
    register_model(create)


def height_width(size: ImageSize) -> tuple[int, int]:
    """Height and width of images of `size`."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def refuse_pretrained(pretrained: bool, name: str) -> None:
    """ValueError where timm is asked for weights: there are none to download."""
    if pretrained:
        raise ValueError(f"{name} has no weights to download: load a checkpoint file instead (model.checkpoint)")
