"""The networks of `make bench-gpu` with their seeded random weights, in each floating-point type, and the images they get."""

from copy import deepcopy
from pathlib import Path
from typing import Literal

import numpy as np
import timm
import torch
from bench.gpu_parts.int8 import Int8Linear
from numpy.typing import NDArray
from torch import Tensor, nn

import models  # noqa: F401  (registers the models)
from calib.preprocess import Preprocess, preprocess
from models.token_attention import TokenPerformer, TokenTransformer

DATA = Path(__file__).parents[3] / "data"
SETS = ("fashion-mnist", "emoji")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEED = 0
TOKEN_ATTENTIONS = (TokenPerformer, TokenTransformer)


class FromPixels(nn.Module):
    """A network with its normalisation, as an engine has it: images (B, H, W, 3) uint8 → logits (B, classes) float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.network, self.dtype = network, dtype
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).contiguous().float()  # B 3 H W
        return self.network(((pixels - self.mean) / self.std).to(self.dtype)).float()


class UnderAutocast(nn.Module):
    """A token attention whose parameters stay float32: its moments and its kernel are computed in float32, its products in
    `dtype`, as in training and as `fp16` graphs have it (docs/performer.md)."""

    def __init__(self, attention: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.attention, self.dtype = attention, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            y = self.attention(x)
        return y.to(self.dtype)


def build_network(name: str, size: int, device: torch.device) -> FromPixels:
    """The network in float32 with random weights, the same at every call, in evaluation."""
    torch.manual_seed(SEED)
    return FromPixels(timm.create_model(name, img_size=size)).eval().requires_grad_(False).to(device)


def lower(network: FromPixels, dtype: torch.dtype) -> FromPixels:
    """A copy that computes in `dtype` what may be: not the soft splits' moments, a token attention's kernel or INT8's scales."""
    copy = FromPixels(deepcopy(network.network).to(dtype), dtype).eval().requires_grad_(False).to(network.mean.device)
    originals = dict(network.network.named_modules())
    for name, module in list(copy.network.named_modules()):
        if isinstance(module, (*TOKEN_ATTENTIONS, Int8Linear)):
            module.load_state_dict(originals[name].state_dict(), assign=True)  # float32, not rounded on the way
        if isinstance(module, TOKEN_ATTENTIONS):
            copy.network.set_submodule(name, UnderAutocast(module, dtype))
    return copy


def embedded_images(split: Literal["train", "val"], count: int, size: int) -> NDArray[np.uint8]:
    """`count` images (count, size, size, 3) uint8 in RGB, half of them photographs of clothing, half drawings of emoji."""
    spec = Preprocess(size, size, 1.0, "bicubic", MEAN, STD)
    found: list[NDArray[np.uint8]] = []
    for place, name in enumerate(SETS):
        wanted = count // 2 if place else count - count // 2
        with np.load(DATA / f"{name}.npz", allow_pickle=False) as stored:
            images = stored[f"{split}_images"]
        chosen = images[np.linspace(0, len(images) - 1, wanted).astype(int)]
        coloured = chosen if chosen.ndim == 4 else np.repeat(chosen[..., None], 3, axis=3)
        found += [preprocess(image, spec) for image in coloured]
    return np.stack(found)
