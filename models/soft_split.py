"""Soft split (T2T-ViT, arXiv 2101.11986, section 3.1) as convolutions: the unfolded tensor never exists.

The paper unfolds overlapping windows, normalises each one and projects it. docs/soft-split.md derives why, with
W' = W·diag(γ), W'' = W' − rowmean(W') and b' = Wβ + b,

    Linear(LayerNorm(unfold(x))) = conv(x, W'') · rstd + b'

and how the variance of a window is found without E[x²] − μ², which cancels in float32.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SplitShape:
    """Window side, stride and zero padding of one soft split, in pixels or tokens."""

    kernel: int
    stride: int
    padding: int

    def output_size(self, size: int) -> int:
        """Windows per side of a square map of `size`."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


def window_variance(x: Tensor, split: SplitShape) -> Tensor:
    """Biased variance of every window of x (B, C, H, W), zero padding included, as (B, 1, h, w).

    The law of total variance, applied twice, subtracts only from means: within each pixel over its channels, then
    between the pixels' means (a 1-channel map, whose centred windows one small convolution gives directly).
    """
    kernel, stride, padding = split.kernel, split.stride, split.padding
    mean = x.mean(1, keepdim=True)  # B 1 H W
    within = x - mean
    within = (within * within).mean(1, keepdim=True)  # B 1 H W
    within = F.avg_pool2d(within, kernel, stride, padding)  # B 1 h w; padded pixels count, as in unfold
    area = kernel * kernel
    centre = torch.eye(area, dtype=x.dtype, device=x.device) - 1 / area
    offsets = F.conv2d(mean, centre.view(area, 1, kernel, kernel), stride=stride, padding=padding)  # B k² h w
    return within + (offsets * offsets).mean(1, keepdim=True)


def split_norm_project(x: Tensor, split: SplitShape, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """`linear(norm(unfold(x)))` without the unfolded tensor: x (B, C, H, W) → (B, h·w, linear.out_features)."""
    channels = x.shape[1]
    weight = linear.weight * norm.weight  # out C·k²
    weight = weight - weight.mean(1, keepdim=True)
    bias = linear.weight @ norm.bias
    if linear.bias is not None:
        bias = bias + linear.bias
    y = F.conv2d(
        x, weight.view(-1, channels, split.kernel, split.kernel), stride=split.stride, padding=split.padding
    )  # B out h w
    with torch.autocast(x.device.type, enabled=False):
        rstd = torch.rsqrt(window_variance(x.to(norm.weight.dtype), split) + norm.eps)  # B 1 h w
    y = y * rstd
    return y.flatten(2).transpose(1, 2) + bias  # B hw out


def split_project(x: Tensor, split: SplitShape, linear: nn.Linear) -> Tensor:
    """`linear(unfold(x))`: exactly one convolution, x (B, C, H, W) → (B, h·w, linear.out_features)."""
    weight = linear.weight.view(-1, x.shape[1], split.kernel, split.kernel)
    y = F.conv2d(x, weight, linear.bias, stride=split.stride, padding=split.padding)  # B out h w
    return y.flatten(2).transpose(1, 2)  # B hw out


def tokens_to_map(tokens: Tensor, size: int) -> Tensor:
    """The paper's re-structurization: (B, size², C) → (B, C, size, size)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, size, size)
