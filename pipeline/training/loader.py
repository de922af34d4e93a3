"""Batches for training and validation: uint8 from the workers, normalised on the device.

An image's augmentation depends only on (seed, epoch, index), and a step's mixing and dropout only on (seed, epoch, step,
rank): not on what ran before, on the number of workers or on how they are started. That is why an interrupted training
can resume exactly.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment, posterize
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms
from torchvision.transforms.functional import resize

from calib.errors import InputError
from calib.images import ImageSplit
from calib.preprocess import LUMA, Preprocess, load_image, preprocess
from pipeline.parts.train import TrainPart
from pipeline.training.distributed import World

if TYPE_CHECKING:
    from PIL.Image import Image

Key = tuple[int, int]  # epoch, index of the image
Sample = tuple[Tensor, int]  # uint8 image (3, H, W), label
Batch = tuple[Tensor, Tensor]  # uint8 images (N, 3, H, W), int64 labels (N,)


def seed_all(seed: int, epoch: int, *, image: int | None = None, step: int = 0, rank: int = 0) -> None:
    """Seed the three generators that timm and torchvision draw from, for one image or for one step of one rank."""
    position = (seed, epoch, 1, image, 0) if image is not None else (seed, epoch, 2, step, rank)
    words = [int(word) for word in np.random.SeedSequence(position).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])
    torch.default_generator.manual_seed(
        words[2]
    )  # torch.manual_seed would queue a call per image while CUDA is not in use
    if image is None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(words[2])


class TrainImages(Dataset[Sample | InputError]):
    """Augmented training images. An unreadable one is returned as its InputError, which `device_batches` raises in the
    main process: raised here, in a worker, the user would see the worker's traceback instead of the message."""

    def __init__(self, split: ImageSplit, spec: Preprocess, part: TrainPart):
        self.split, self.seed = split, part.seed
        try:
            self.transform = create_transform(
                (3, spec.height, spec.width), is_training=True, scale=part.random_resize_scale,
                hflip=part.horizontal_flip, color_jitter=None, auto_augment=part.auto_augment,
                interpolation=spec.interpolation, mean=spec.mean * (3 // spec.channels), std=spec.std, normalize=False,
            )  # fmt: skip
        except (AssertionError, ValueError, KeyError) as error:  # timm raises these for an augmentation it cannot read
            raise InputError(
                "timm cannot read train.auto_augment", got=f"{part.auto_augment!r} {error}",
                allowed="such as rand-m9-mstd0.5-inc1, augmix-m3-w3, original, or null for none",
                next_step="change train.auto_augment in the recipe",
            ) from error  # fmt: skip
        if part.random_crop_padding > 0:
            self.transform.transforms[0] = _padded_crop(spec, part.random_crop_padding)
        _keep_one_bit(self.transform)

    def __getitem__(self, key: Key) -> Sample | InputError:
        from PIL.Image import fromarray

        epoch, index = key
        try:
            image = load_image(self.split.root / self.split.names[index])
        except InputError as error:
            return error
        seed_all(self.seed, epoch, image=index)
        return self.transform(fromarray(image)), self.split.labels[index]


def _padded_crop(spec: Preprocess, padding: float) -> transforms.Compose:
    """The CIFAR augmentation: resize to cover the network's image, add black borders of `padding` times its height, crop at
    random."""
    mode = transforms.InterpolationMode(spec.interpolation)
    return transforms.Compose([
        _Cover(spec, mode),
        transforms.RandomCrop((spec.height, spec.width), padding=round(padding * spec.height)),
    ])  # fmt: skip


class _Cover:
    """Resize a picture, keeping its proportions, to the least size that covers the network's."""

    def __init__(self, spec: Preprocess, mode: transforms.InterpolationMode):
        self.spec, self.mode = spec, mode

    def __call__(self, image: "Image") -> "Image":
        scale = max(self.spec.height / image.height, self.spec.width / image.width)
        size = [max(self.spec.height, round(image.height * scale)), max(self.spec.width, round(image.width * scale))]
        return resize(image, size, self.mode)


def _keep_one_bit(transform: Any) -> None:
    """Let timm's Posterize keep at least one bit: it also asks for 0 bits, which Pillow 13 refuses."""
    for part in transform.transforms:
        if isinstance(part, (RandAugment, AugMixAugment)):
            for operation in part.ops:
                _limit_posterize(operation)
        elif isinstance(part, AutoAugment):
            for operation in (operation for policy in part.policy for operation in policy):
                _limit_posterize(operation)


def _limit_posterize(operation: AugmentOp) -> None:
    if operation.name.startswith("Posterize"):
        operation.aug_fn = _posterize


def _posterize(image: "Image", bits: int, **_: object) -> "Image":
    """timm passes options of other operations too; they are ignored."""
    return posterize(image, max(bits, 1))


class ValImages(Dataset[Sample | InputError]):
    """Validation images, preprocessed by the same function as for engines."""

    def __init__(self, split: ImageSplit, spec: Preprocess):
        self.split, self.spec = split, spec

    def __getitem__(self, index: int) -> Sample | InputError:
        try:
            image = preprocess(load_image(self.split.root / self.split.names[index]), self.spec)
        except InputError as error:
            return error
        return torch.from_numpy(image).permute(2, 0, 1), self.split.labels[index]


class EpochSampler(Sampler[Key]):
    """This process's share of a new shuffle for each epoch, equally long in every process: the remainder of the division is
    left out, other images in each epoch. Yields (epoch, index), because workers outlive an epoch and must know which it is."""

    def __init__(self, count: int, seed: int, world: World):
        self.count, self.seed, self.world = count, seed, world
        self.epoch, self.first, self.end = 0, 0, len(self)

    def start(self, epoch: int, first: int, end: int) -> None:
        """The next pass is over this process's images `first` to `end` (excluded) of `epoch`."""
        self.epoch, self.first, self.end = epoch, first, end

    def share(self, epoch: int) -> NDArray[np.int64]:
        """Indices of this process's images in `epoch`, in order."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return order[self.world.rank : len(self) * self.world.size : self.world.size]

    def __len__(self) -> int:
        return self.count // self.world.size

    def __iter__(self) -> Iterator[Key]:
        return iter([(self.epoch, int(index)) for index in self.share(self.epoch)[self.first : self.end]])


@dataclass(frozen=True)
class Loaders:
    """`train` drops the last, incomplete batch; `val` is this process's share: each image is in exactly one process."""

    train: DataLoader[Sample | InputError]
    val: DataLoader[Sample | InputError]
    sampler: EpochSampler

    def close(self) -> None:
        """Stop the workers now: left to the garbage collector, they delay the end of a failed program by ten seconds."""
        for loader in (self.train, self.val):
            loader._iterator = None  # torch has no public way to end persistent workers; they end with their iterator


def make_loaders(train: ImageSplit, val: ImageSplit, spec: Preprocess, part: TrainPart, world: World) -> Loaders:
    """Loaders for this process; the batch size is per process."""
    sampler = EpochSampler(len(train), part.seed, world)
    share = range(world.rank, len(val), world.size)
    pin = world.device.type == "cuda"
    keep = part.workers > 0
    return Loaders(
        train=DataLoader(
            TrainImages(train, spec, part), part.batch_size, sampler=sampler, drop_last=True, num_workers=part.workers,
            collate_fn=collate, pin_memory=pin, persistent_workers=keep, worker_init_fn=_start_worker,
        ),
        val=DataLoader(
            ValImages(val, spec), part.batch_size, sampler=share, num_workers=part.workers, collate_fn=collate,
            pin_memory=pin, persistent_workers=keep, worker_init_fn=_start_worker,
        ),
        sampler=sampler,
    )  # fmt: skip


def collate(samples: list[Sample | InputError]) -> Batch | InputError:
    """Stack samples; where an image is unreadable, its InputError is returned in place of the batch."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, InputError):
            return sample
        good.append(sample)
    return torch.stack([image for image, _ in good]), torch.tensor([label for _, label in good])


def device_batches(batches: Iterable[Any], device: torch.device) -> Iterator[Batch]:
    """A loader's batches on `device`; raises the InputError of an image that cannot be read."""
    for batch in batches:
        if isinstance(batch, InputError):
            raise batch
        images, labels = batch
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class Normalise:
    """uint8 (N, 3, H, W) → float32 (N, C, H, W), (x − 255 mean) / (255 std) of the spec, as the exported graph computes it."""

    def __init__(self, spec: Preprocess, device: torch.device):
        self.mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1) * 255
        self.scale = 1 / (torch.tensor(spec.std, device=device).view(1, -1, 1, 1) * 255)
        self.luma = torch.tensor(LUMA, device=device).view(1, 3, 1, 1) if spec.grey else None

    def __call__(self, images: Tensor) -> Tensor:
        x = images.float()
        if self.luma is not None:
            x = (x * self.luma).sum(1, keepdim=True)
        return (x - self.mean) * self.scale


def _start_worker(worker: int) -> None:
    """Turn off OpenCV's own threads: they hang in forked processes and would take cores from training."""
    import cv2

    cv2.setNumThreads(0)
