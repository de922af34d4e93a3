"""Soft split (T2T-ViT, arXiv 2101.11986, section 3.1) as convolutions: the unfolded tensor never exists.

The paper unfolds overlapping windows, normalises each one and projects it. docs/soft-split.md derives why, with
W' = W·diag(γ), W'' = W' − rowmean(W') and b' = Wβ + b,

    Linear(LayerNorm(unfold(x))) = conv(x, W'') · rstd + b'

and how the variance of a window is found without E[x²] − μ², which cancels in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MapSize = tuple[int, int]  # height and width, in pixels or tokens


@dataclass(frozen=True)
class SplitShape:
    """Window side, stride and zero padding of one soft split, in pixels or tokens."""

    kernel: int
    stride: int
    padding: int

    def output_size(self, size: int) -> int:
        """Windows along a side of `size`."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def output_map(self, size: MapSize) -> MapSize:
        """Rows and columns of windows on a map of `size`."""
        return self.output_size(size[0]), self.output_size(size[1])


def window_parts(x: Tensor, split: SplitShape) -> tuple[Tensor, Tensor, Tensor]:
    """What a soft split needs of x (B, C, H, W), free of the level of flat regions.

    Returns each pixel's channels minus their mean (B, C, H, W), the windows' pixel means minus the window's middle one
    (B, k², h, w), which is exactly 0 where an image is flat, and the windows' biased variance (B, 1, h, w), padding
    included, by the law of total variance: within pixels over channels, plus between the pixels' means.
    """
    kernel, stride, padding = split.kernel, split.stride, split.padding
    mean = x.mean(1, keepdim=True)  # B 1 H W
    inner = x - mean  # B C H W
    area = kernel * kernel
    difference = torch.eye(area, dtype=x.dtype, device=x.device)
    difference[:, area // 2] -= 1  # pixel i minus the middle one
    between = F.conv2d(mean, difference.view(area, 1, kernel, kernel), stride=stride, padding=padding)  # B k² h w
    within = F.avg_pool2d((inner * inner).mean(1, keepdim=True), kernel, stride, padding)  # B 1 h w
    level = between.mean(1, keepdim=True)
    variance = within + (between * between).mean(1, keepdim=True) - level * level
    return inner, between, variance


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """What is computed inside is computed in the type of its operands. The meta device computes shapes, and has no autocast."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def split_norm_project(x: Tensor, split: SplitShape, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """`linear(norm(unfold(x)))` without the unfolded tensor: x (B, C, H, W) → (B, h·w, linear.out_features)."""
    channels, area = x.shape[1], split.kernel**2
    weight = linear.weight * norm.weight  # out C·k²
    weight = weight - weight.mean(1, keepdim=True)
    bias = linear.weight @ norm.bias
    if linear.bias is not None:
        bias = bias + linear.bias
    with without_autocast(x):
        inner, between, variance = window_parts(x.to(norm.weight.dtype), split)
        rstd = torch.rsqrt(variance + norm.eps)  # B 1 h w
    y = F.conv2d(
        inner, weight.view(-1, channels, split.kernel, split.kernel), stride=split.stride, padding=split.padding
    )  # B out h w
    y = y + F.conv2d(between, weight.view(-1, channels, area).sum(1).view(-1, area, 1, 1))
    y = y * rstd
    return y.flatten(2).transpose(1, 2) + bias  # B hw out


def split_project(x: Tensor, split: SplitShape, linear: nn.Linear) -> Tensor:
    """`linear(unfold(x))`: exactly one convolution, x (B, C, H, W) → (B, h·w, linear.out_features)."""
    weight = linear.weight.view(-1, x.shape[1], split.kernel, split.kernel)
    y = F.conv2d(x, weight, linear.bias, stride=split.stride, padding=split.padding)  # B out h w
    return y.flatten(2).transpose(1, 2)  # B hw out


def tokens_to_map(tokens: Tensor, size: MapSize) -> Tensor:
    """The paper's re-structurization: (B, h·w, C) → (B, C, h, w)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *size)
