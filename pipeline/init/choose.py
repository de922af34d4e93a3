"""Network, input size and length of training for so many images of such a size on this machine.

The numbers are rules of thumb. Training by them was tried at 32 and 64 px without a GPU; those for larger images come from times
of a step, those with a GPU are untried. The recipe that they end in is there to be changed.
"""

from dataclasses import dataclass

from export.cpu import available_cpus
from pipeline.console.figures import counted
from pipeline.machine.describe import gpu_name

# Where networks trained from scratch take so many images, the next larger one pays.
_MANY, _VERY_MANY = 20_000, 200_000
_FEW, _SIDE_OF_FEW = 5_000, 128  # fewer images teach a network from scratch no finer detail
# (side of the input, smallest median of the shorter sides for it): images are not enlarged by more than a half
_SIDES = ((224, 150), (128, 86), (64, 43), (32, 0))
_UPDATES = 2400  # a small network's training
_FEWEST_EPOCHS, _MOST_EPOCHS = 12, 100
# Images that two CPU cores train on in about an hour, by the side of the input
_HOUR_OF_CPU = {32: 1_000_000, 64: 400_000, 128: 120_000, 224: 50_000}
_LARGE = 512 * 512  # pixels, above which decoding an image takes longer than a small network's step


@dataclass(frozen=True)
class Choice:
    """What the recipe says, and `reasons` for people: (what, why)."""

    network: str
    side: int
    epochs: int
    batch: int
    workers: int
    threads: int
    large_data: bool
    reasons: tuple[tuple[str, str], ...]


def choose(train_images: int, width: int, height: int) -> Choice:
    """For `train_images` images with these median sides in pixels."""
    gpu, cores = gpu_name(), available_cpus()
    side, why_side = _side(train_images, min(width, height), gpu)
    network, why_network = _network(train_images, side, gpu)
    batch = 64 if train_images >= 4096 else 32 if train_images >= 256 else 16 if train_images >= 64 else 8
    epochs, why_epochs = _epochs(train_images, batch, side, gpu)
    workers = min(cores, 8) if gpu or width * height > _LARGE else 0
    return Choice(
        network, side, epochs, batch, workers, min(cores, 4), network.startswith("t2t_vit") and side == 224,
        ((f"input {side}×{side}", why_side), (network, why_network), (counted(epochs, "epoch"), why_epochs)),
    )  # fmt: skip


def _side(images: int, shorter: int, gpu: str | None) -> tuple[int, str]:
    fits = [side for side, least in _SIDES if shorter >= least]
    why = f"the median of the shorter sides is {shorter}"
    if images < _FEW and fits[0] > _SIDE_OF_FEW:
        fits = [side for side in fits if side <= _SIDE_OF_FEW]
        why += f"; fewer than {_FEW:,} images teach a network from scratch no finer detail"
    if gpu:
        return fits[0], why
    for side in fits:
        if images * _FEWEST_EPOCHS <= _HOUR_OF_CPU[side]:
            smaller = "" if side == fits[0] else f"; {fits[0]} would train for hours without a GPU"
            return side, why + smaller
    return fits[-1], f"{why}; more would train for many hours without a GPU"


def _network(images: int, side: int, gpu: str | None) -> tuple[str, str]:
    if side == 224 and gpu and images >= _MANY:
        name = "t2t_vit_14" if images >= _VERY_MANY else "t2t_vit_7"
        return name, f"{counted(images, 'image')} are enough for a transformer from scratch"
    if side == 32:
        return "t2t_vit_mini", "a small network for small images"
    return (
        "resnet18",
        f"of {counted(images, 'image')}, without pretrained weights, a small CNN learns more than a transformer",
    )


def _epochs(images: int, batch: int, side: int, gpu: str | None) -> tuple[int, str]:
    if gpu and images >= _MANY:
        return 100, f"about {counted(images * 100 // batch, 'update')}"
    wanted = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(_UPDATES * batch / images)))
    affordable = wanted if gpu else max(1, _HOUR_OF_CPU[side] // images)
    epochs = min(wanted, affordable)
    why = f"about {counted(max(1, images // batch) * epochs, 'update')} of {batch} images"
    return epochs, why + (", about an hour on two cores" if epochs < wanted else "")
