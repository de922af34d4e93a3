"""The deep-narrow backbone of T2T-ViT (arXiv 2101.11986, section 3.2): pre-norm transformer blocks."""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from models.attention import Mlp, dot_product_attention


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, dim) → (B, T, dim)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        heads = (batch, tokens, self.num_heads, dim // self.num_heads)
        q, k, v = (part.reshape(heads).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))  # B heads T head_dim
        y = dot_product_attention(q, k, v, self.scale)  # B heads T head_dim
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with stochastic depth."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def sinusoid_positions(count: int, dim: int) -> Tensor:
    """Sinusoid position embedding (Attention Is All You Need, section 3.5), (1, count, dim) float32."""
    position = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    channel = torch.arange(dim, dtype=torch.float64)
    angle = position / 10000 ** (2 * (channel // 2) / dim)
    table = torch.where(channel.long() % 2 == 0, angle.sin(), angle.cos())
    return table.unsqueeze(0).float()
