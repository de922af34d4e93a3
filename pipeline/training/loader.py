"""Batches for training and validation: uint8 from the workers, normalised on the device.

An image's augmentation depends only on (seed, epoch, index), and a step's mixing and dropout only on (seed, epoch, step,
rank): not on what ran before, on the number of workers or on how they are started. That is why an interrupted training
can resume exactly.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from calib.errors import InputError
from calib.images import ImageSplit
from calib.preprocess import LUMA, Preprocess
from pipeline.parts.train import TrainPart
from pipeline.training.distributed import World
from pipeline.training.learning.learning import Learning
from pipeline.training.learning.samples import Batch, Key, Sample


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


def make_loaders(
    learning: Learning, train: ImageSplit, val: ImageSplit, spec: Preprocess, part: TrainPart, world: World
) -> Loaders:  # fmt: skip
    """Loaders for this process; the batch size is per process."""
    sampler = EpochSampler(len(train), part.seed, world)
    share = range(world.rank, len(val), world.size)
    pin = world.device.type == "cuda"
    keep = part.workers > 0
    return Loaders(
        train=DataLoader(
            learning.train_images(train, spec, part), part.batch_size, sampler=sampler, drop_last=True, num_workers=part.workers,
            collate_fn=collate, pin_memory=pin, persistent_workers=keep, worker_init_fn=_start_worker,
        ),
        val=DataLoader(
            learning.val_images(val, spec), part.batch_size, sampler=share, num_workers=part.workers, collate_fn=collate,
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
    images, labels = zip(*good, strict=True)
    return torch.stack(images), torch.from_numpy(np.asarray([np.asarray(label) for label in labels]))


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
