"""The two necks and the pixel head of panoptic FPN and VT-FPN: four maps of a ResNet in, features of stride 4 out.

A neck takes maps (B, C, H, W) of strides 4, 8, 16 and 32 and gives maps of the same sizes that are all `width` wide. Every
convolution has BatchNorm: it folds into the convolution's weights when a graph is exported, GroupNorm does not.
What the papers leave open: docs/segmentation-networks.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.visual_transformer import FilterTokenizer, TokenMixer, TokenSideProjector


def convolution(in_dim: int, out_dim: int, kernel: int) -> nn.Sequential:
    """Convolution and BatchNorm, (B, in_dim, H, W) → (B, out_dim, H, W)."""
    conv = nn.Conv2d(in_dim, out_dim, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_dim))


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017, arXiv 1612.03144, section 3): 1×1 laterals, nearest top-down sums, a 3×3 convolution on each."""

    def __init__(self, channels: list[int], width: int):
        super().__init__()
        self.laterals = nn.ModuleList(convolution(wide, width, 1) for wide in channels)
        self.outputs = nn.ModuleList(convolution(width, width, 3) for _ in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in reversed(range(len(merged) - 1)):
            merged[level] = merged[level] + F.interpolate(merged[level + 1], scale_factor=2.0, mode="nearest")
        return [output(x) for output, x in zip(self.outputs, merged, strict=True)]


class TokenPyramid(nn.Module):
    """VT-FPN (Wu et al. 2020, arXiv 2006.03677, section 4): tokens of all levels meet in one transformer layer.

    `tokens` of each map, `token_dim` wide; every map then asks all of them. Between maps there is no other way.
    """

    def __init__(self, channels: list[int], width: int, tokens: int, token_dim: int, drop_path: float):
        super().__init__()
        self.laterals = nn.ModuleList(convolution(wide, width, 1) for wide in channels)
        self.tokenizers = nn.ModuleList(FilterTokenizer(width, tokens, token_dim) for _ in channels)
        self.mixer = TokenMixer(token_dim, drop_path)
        self.projectors = nn.ModuleList(TokenSideProjector(width, token_dim, drop_path) for _ in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        tokens = [tokenizer(x) for tokenizer, x in zip(self.tokenizers, maps, strict=True)]  # B L D each
        mixed = self.mixer(torch.cat(tokens, dim=1))  # B levels·L D
        return [projector(x, mixed) for projector, x in zip(self.projectors, maps, strict=True)]


class SemanticBranch(nn.Module):
    """Panoptic FPN's semantic branch (Kirillov et al. 2019, arXiv 1901.02446, section 3.1) without its last 1×1 convolution.

    Every map goes through 3×3 convolution, BatchNorm, ReLU and, but for the first, 2× bilinear up-sampling until it has
    stride 4; then they are summed: four maps `width` wide → (B, branch_width, H/4, W/4).
    """

    def __init__(self, levels: int, width: int, branch_width: int):
        super().__init__()
        self.levels = nn.ModuleList(self._level(level, width, branch_width) for level in range(levels))

    @staticmethod
    def _level(level: int, width: int, branch_width: int) -> nn.Sequential:
        parts: list[nn.Module] = []
        for step in range(max(1, level)):
            parts += [*convolution(branch_width if step else width, branch_width, 3), nn.ReLU(inplace=True)]
            if level:
                parts.append(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False))
        return nn.Sequential(*parts)

    def forward(self, maps: list[Tensor]) -> Tensor:
        first, *others = (level(x) for level, x in zip(self.levels, maps, strict=True))
        for other in others:
            first = first + other
        return first
