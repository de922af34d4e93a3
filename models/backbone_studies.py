"""CNN designs in the backbone (T2T-ViT, arXiv 2101.11986, section 4.2 and Table 6): SE, ghost and dense blocks.

As in the authors' code, whose parameter names these are. Their other two designs need no code of their own: ResNeXt is
more heads, wide is fewer and wider blocks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Mlp
from models.backbone import Attention, Block, multi_head_attention

SE_REDUCTION = 16
GHOST_MLP_RATIO = 3  # fc2 reads the features and their two cheap copies
# Stage i gets the i-th of 12 drop-path rates: upstream draws them for its default depth, not for its own.
DENSE_RATES = 12


class SELayer(nn.Module):
    """Squeeze and excitation (arXiv 1709.01507): a factor per channel from the tokens' mean, (B, T, dim) → (B, T, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        hidden_dim = dim // SE_REDUCTION
        self.fc = nn.Sequential(
            nn.Linear(dim, hidden_dim, bias=False), nn.ReLU(), nn.Linear(hidden_dim, dim, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean(1, keepdim=True))  # B T dim times B 1 dim


class SEAttention(Attention):
    """Self-attention whose output channels are weighted by an `SELayer`, (B, T, dim) → (B, T, dim)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__(dim, num_heads)
        self.se_layer = SELayer(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.se_layer(super().forward(x))


def cheap_operation(dim: int) -> nn.Conv1d:
    """The ghost's 1×1 depthwise convolution over tokens: it holds the weight, `cheap_copy` applies it."""
    return nn.Conv1d(dim, dim, kernel_size=1, groups=dim, bias=False)


def cheap_copy(x: Tensor, operation: nn.Conv1d) -> Tensor:
    """`operation` on (B, T, dim): with one weight per channel it is a factor, and needs no transposes around a Conv."""
    return x * operation.weight.flatten()


class GhostAttention(nn.Module):
    """Self-attention with half of q, k and v computed (GhostNet, arXiv 1911.11907), (B, T, dim) → (B, T, dim).

    The other half are cheap copies, so that the first half of the heads sees the projections, the second the copies.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim // 2, bias=False)
        self.k = nn.Linear(dim, dim // 2, bias=False)
        self.v = nn.Linear(dim, dim // 2, bias=False)
        self.cheap_operation_q = cheap_operation(dim // 2)
        self.cheap_operation_k = cheap_operation(dim // 2)
        self.cheap_operation_v = cheap_operation(dim // 2)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)  # B T dim/2
        q = torch.cat((q, cheap_copy(q, self.cheap_operation_q)), dim=2)  # B T dim
        k = torch.cat((k, cheap_copy(k, self.cheap_operation_k)), dim=2)  # B T dim
        v = torch.cat((v, cheap_copy(v, self.cheap_operation_v)), dim=2)  # B T dim
        return self.proj(multi_head_attention(q, k, v, self.num_heads))


class GhostMlp(nn.Module):
    """The MLP with a third of its hidden features computed, (B, T, dim) → (B, T, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, dim)
        self.fc2 = nn.Linear(GHOST_MLP_RATIO * dim, dim)
        self.cheap_operation2 = cheap_operation(dim)
        self.cheap_operation3 = cheap_operation(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))  # B T dim
        second = F.gelu(cheap_copy(x, self.cheap_operation2))
        third = F.gelu(cheap_copy(x, self.cheap_operation3))
        return self.fc2(torch.cat((x, second, third), dim=2))  # from B T 3·dim


@dataclass(frozen=True)
class DenseStages:
    """DenseNet's layout: blocks per stage, each adding `growth` channels; between stages the width is halved."""

    growth: int
    blocks: tuple[int, ...]


class DenseBlock(Block):
    """A block that keeps its input and appends `growth` new channels, (B, T, dim) → (B, T, dim + growth)."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float, growth: int):
        super().__init__(dim, attn, mlp, drop_path)
        self.dense_linear = nn.Linear(dim, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.dense_linear(super().forward(x))), dim=2)


class Transition(nn.Module):
    """Between two dense stages: (B, T, in_dim) → (B, T, out_dim)."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.linear(x))


def dense_blocks(
    stages: DenseStages, dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float
) -> tuple[nn.ModuleList, int]:
    """The blocks and transitions of `stages` in one list, for tokens `dim` wide, and the width they end with."""
    rates = torch.linspace(0, drop_path_rate, DENSE_RATES, device="cpu").tolist()
    blocks = nn.ModuleList()
    for stage, count in enumerate(stages.blocks):
        if stage > 0:
            blocks.append(Transition(dim, dim // 2))
            dim //= 2
        for _ in range(count):
            attention, mlp = Attention(dim, num_heads), Mlp(dim, int(dim * mlp_ratio))
            blocks.append(DenseBlock(dim, attention, mlp, rates[stage], stages.growth))
            dim += stages.growth
    return blocks, dim
