"""The two token attentions of T2T-ViT (arXiv 2101.11986, section 3.1): performer and transformer.

Both take a map, soft-split it, attend over the windows and give tokens. Upstream's quirks are kept, because published
weights depend on them: values are the skip connection, and the transformer's scale is that of the *unfolded* width.
"""

import math

import torch
from torch import Tensor, nn

from models.attention import Mlp, dot_product_attention
from models.soft_split import SplitShape, split_norm_project, without_autocast

KERNEL_EPS = 1e-8  # upstream's, added to the performer's normaliser
MAX_HALF_SQUARE = 3e4  # |x|²/2 is cut here: exp(-3e4) is 0 in every float format, and FP16 holds it


def performer_attention(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Softmax-kernel attention by positive random features (Performers, arXiv 2009.14794, section 2.3, lemma 1).

    q, k, v (B, T, D), w (m, D) → (B, T, D). Equal to φ(q)·(Σφ(k)vᵀ) / (φ(q)·Σφ(k) + 1e-8) with
    φ(x) = exp(wx − |x|²/2)/√m, but the keys' largest exponent of each feature moves over to the queries, the queries'
    largest is taken out, sums become means, and the epsilon is rescaled by what was taken out. Then every factor is at
    most 1 and the normaliser at least 1/T: nothing overflows or vanishes in FP16. docs/performer.md derives it.
    """
    tokens, features = k.shape[1], w.shape[0]
    # The result does not depend on the shifts, so neither does its gradient: detached, which also keeps an infinite eps
    # (all features underflow, the result is 0) out of the backward pass, where 0 · Inf would be NaN.
    k_exponent = k @ w.t() - half_square(k)  # B T m
    k_top = k_exponent.detach().amax(1, keepdim=True)  # B 1 m
    q_exponent = q @ w.t() - half_square(q) + k_top  # B T m
    q_top = q_exponent.detach().amax(2, keepdim=True)  # B T 1
    k_feature = torch.exp(k_exponent - k_top) / tokens  # B T m, so that sums over tokens are means
    q_feature = torch.exp(q_exponent - q_top)  # B T m
    eps = torch.exp(math.log(KERNEL_EPS * features / tokens) - q_top)  # B T 1
    context = k_feature.transpose(1, 2) @ v  # B m D
    normaliser = (q_feature * k_feature.sum(1, keepdim=True)).sum(2, keepdim=True)  # B T 1
    return (q_feature @ context) / (normaliser + eps)


def half_square(x: Tensor) -> Tensor:
    """|x|²/2 over the last axis, (…, D) → (…, 1), cut where FP16 would overflow."""
    return ((x * x).sum(-1, keepdim=True) * 0.5).clamp(max=MAX_HALF_SQUARE)


class TokenPerformer(nn.Module):
    """Soft split, performer attention with values as the skip connection, and an MLP: map → tokens (B, h·w, token_dim)."""

    def __init__(self, split_dim: int, token_dim: int, split: SplitShape, kernel_ratio: float = 0.5, drop: float = 0.1):
        super().__init__()
        self.split = split
        self.norm1 = nn.LayerNorm(split_dim)
        self.kqv = nn.Linear(split_dim, 3 * token_dim)
        features = int(token_dim * kernel_ratio)
        w = nn.init.orthogonal_(torch.empty(features, token_dim)) * math.sqrt(features)
        self.w = nn.Parameter(w, requires_grad=False)
        self.proj = nn.Linear(token_dim, token_dim)
        self.drop = nn.Dropout(drop)
        self.norm2 = nn.LayerNorm(token_dim)
        self.mlp = nn.Sequential(
            nn.Linear(token_dim, token_dim), nn.GELU(), nn.Linear(token_dim, token_dim), nn.Dropout(drop)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, h·w, token_dim)."""
        k, q, v = split_norm_project(x, self.split, self.norm1, self.kqv).chunk(3, dim=2)
        dtype = self.w.dtype
        with without_autocast(x):  # the kernel's exponentials need float32: docs/performer.md
            attended = performer_attention(q.to(dtype), k.to(dtype), v.to(dtype), self.w)
        y = v + self.drop(self.proj(attended))
        return y + self.mlp(self.norm2(y))


class TokenTransformer(nn.Module):
    """Soft split, one attention head with values as the skip connection, and an MLP: map → tokens (B, h·w, token_dim)."""

    def __init__(self, split_dim: int, token_dim: int, split: SplitShape):
        super().__init__()
        self.split = split
        self.norm1 = nn.LayerNorm(split_dim)
        self.attn = TokenAttention(split_dim, token_dim)
        self.norm2 = nn.LayerNorm(token_dim)
        self.mlp = Mlp(token_dim, token_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, h·w, token_dim)."""
        q, k, v = split_norm_project(x, self.split, self.norm1, self.attn.qkv).chunk(3, dim=2)
        y = self.attn(q, k, v)
        return y + self.mlp(self.norm2(y))


class TokenAttention(nn.Module):
    """The attention of `TokenTransformer`; its `qkv` is applied by the soft split."""

    def __init__(self, split_dim: int, token_dim: int):
        super().__init__()
        self.scale = split_dim**-0.5  # of the unfolded width, as upstream
        self.qkv = nn.Linear(split_dim, 3 * token_dim, bias=False)
        self.proj = nn.Linear(token_dim, token_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (B, T, D) → (B, T, D)."""
        y = dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), self.scale)  # B 1 T D
        return v + self.proj(y.squeeze(1))
