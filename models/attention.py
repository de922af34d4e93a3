"""What the token transformer and the backbone share: scaled dot-product attention and the two-layer MLP."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q·kᵀ·scale)·v over (B, heads, T, D).

    In training torch's fused kernel; in export the plain form with the scale on q alone, because the exporter's own
    expansion splits the scale over q and k and wraps kᵀ in reshapes, which keeps engines from fusing the attention.
    """
    if torch.compiler.is_exporting():
        return torch.softmax((q * scale) @ k.transpose(-2, -1), dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class Mlp(nn.Module):
    """Two linear layers with a GELU between: (…, dim) → (…, dim)."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
