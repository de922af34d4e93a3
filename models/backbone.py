"""The deep-narrow backbone of T2T-ViT (arXiv 2101.11986, section 3.2): pre-norm transformer blocks."""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from models.attention import dot_product_attention


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Attention in `num_heads` heads, each over its own part of the channels: q, k, v (B, T, dim) → (B, T, dim)."""
    batch, tokens, dim = q.shape
    head_dim = dim // num_heads
    q, k, v = (
        part.reshape(batch, tokens, num_heads, head_dim).transpose(1, 2) for part in (q, k, v)
    )  # B heads T head_dim
    y = dot_product_attention(q, k, v, head_dim**-0.5)  # B heads T head_dim
    return y.transpose(1, 2).reshape(batch, tokens, dim)  # B T dim


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, dim) → (B, T, dim)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)  # B T dim
        return self.proj(multi_head_attention(q, k, v, self.num_heads))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with stochastic depth; `attn` and `mlp` keep the shape (B, T, dim)."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def classifier(num_features: int, num_classes: int) -> nn.Module:
    """The last layer, (B, num_features) → (B, num_classes). For 0 classes there is none: the network gives its
    features then, as all of timm's do."""
    return nn.Linear(num_features, num_classes) if num_classes > 0 else nn.Identity()


def sinusoid_positions(count: int, dim: int) -> Tensor:
    """Sinusoid position embedding (Attention Is All You Need, section 3.5), (1, count, dim) float32."""
    position = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    channel = torch.arange(dim, dtype=torch.float64)
    angle = position / 10000 ** (2 * (channel // 2) / dim)
    table = torch.where(channel.long() % 2 == 0, angle.sin(), angle.cos())
    return table.unsqueeze(0).float()
