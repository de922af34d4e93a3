"""What a training's data sets give, and the seeds of augmentation and of a step."""

import random

import numpy as np
import torch
from torch import Tensor

Key = tuple[int, int]  # epoch, index of the image
Sample = tuple[Tensor, int | Tensor]  # uint8 image (3, H, W), its label or its mask, uint8 (H, W)
Batch = tuple[Tensor, Tensor]  # uint8 images (N, 3, H, W), int64 labels (N,) or masks, uint8 (N, H, W)


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
