"""How long and how hard to train, where the recipe does not say: by how many images there are.

`pipeline.parts.train` has the defaults of ImageNet: hundreds of epochs under heavy augmentation teach a network from a million
images, and little from some thousands, which then never see an image as it is. One table says what fewer images get.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pipeline.console.figures import counted
from pipeline.parts.train import TrainPart

LARGE = 100_000  # from so many training images on, a network without weights is trained as on ImageNet


@dataclass(frozen=True)
class Size:
    """What training sets of fewer than `below` images get: epochs for new and for given weights, and images in a batch."""

    below: int
    from_scratch: int
    from_weights: int
    batch_size: int


SIZES = (Size(2_000, 100, 20, 16), Size(20_000, 30, 10, 32), Size(LARGE, 20, 5, 64))
FEW_IMAGES: dict[str, Any] = {
    "lr": 1e-3, "warmup_epochs": 1, "mixup": 0.0, "cutmix": 0.0, "auto_augment": None, "random_erasing": 0.0,
    "random_resize_scale": (0.7, 1.0), "drop_path": 0.0, "ema_decay": 0.99, "clip_grad": 1.0,
}  # fmt: skip
# Weights that know something already: the new classifier learns ten times as fast as they do.
GIVEN_WEIGHTS: dict[str, Any] = FEW_IMAGES | {"lr": 5e-4, "backbone_lr_ratio": 0.1, "min_lr": 1e-6}


def resolve_training(
    part: TrainPart, images: int, *, given_weights: bool, off: Mapping[str, Any] = MappingProxyType({})
) -> tuple[TrainPart, list[str]]:
    """`part` with what fits `images` training images in place of what it does not state, and a line that says so.

    Nothing changes with `epochs: 0`, or from LARGE images on, apart from keys that the task has no use for: those are `off`. What
    the recipe states is kept.
    """
    if part.epochs > 0:
        part = part.model_copy(update={key: value for key, value in off.items() if key not in part.model_fields_set})
    size = next((size for size in SIZES if images < size.below), None)
    if size is None or part.epochs == 0 or images == 0:
        return part, []
    fitting = GIVEN_WEIGHTS if given_weights else FEW_IMAGES
    epochs = size.from_weights if given_weights else size.from_scratch
    wanted = fitting | {"epochs": epochs, "batch_size": _batch(size.batch_size, images)}
    stated = part.model_fields_set | off.keys() | ({"batch_size"} if part.global_batch is not None else set())
    filled = {key: value for key, value in wanted.items() if key not in stated}
    epochs = part.epochs if "epochs" in stated else epochs
    if "warmup_epochs" in filled:
        filled["warmup_epochs"] = max(0, min(1, epochs - part.cooldown_epochs - 1))
    if not filled:
        return part, []
    shown = ", ".join(f"{key} {_short(filled[key])}" for key in ("epochs", "batch_size", *fitting) if key in filled)
    why = f"{counted(images, 'image')}, fewer than {size.below:,}" + (", weights given" if given_weights else "")
    return part.model_copy(update=filled), [f"train: {shown} (not in the recipe; for {why})"]


def _batch(usual: int, images: int) -> int:
    """An even number that the images fill at least once."""
    return max(2, min(usual, images // 2 * 2))


def _short(value: Any) -> str:
    return "off" if value is None else " to ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
