"""The Visual Transformer module (Wu et al. 2021, arXiv 2006.03677, section 3): tokenizer, transformer, projector.

A map X is (B, C, H, W), its pixels counted row by row; visual tokens T are (B, L, D). Every attention is softmax over its
last axis. Two things are not in the paper's equations, because training fails without them: products of tokens with a
learned projection are divided by √(their length) in front of a softmax, and tokens are normalised before and after the
transformer. `printed` leaves both out, as the equations stand; its weights start so small that fresh logits have the
same variance. The measurements, and what else the paper leaves open: docs/visual-transformer.md.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

ATTENTION_DIM = 256  # of the transformer's keys and queries
KMEANS_ITERATIONS = 5
TINY = 1e-4  # FP16 still holds it as a normal number


def pool_pixels(logits: Tensor, x: Tensor) -> Tensor:
    """softmax over pixels, then weighted means of them: (B, L, HW), (B, C, H, W) → (B, L, C)."""
    attention = torch.softmax(logits, dim=-1)  # B L HW
    return attention @ x.flatten(2).transpose(1, 2)


def linear(in_dim: int, out_dim: int, gain: float = 1.0) -> nn.Linear:
    """A weight matrix of the paper's equations: no bias, at the start `gain` times what keeps the variance."""
    layer = nn.Linear(in_dim, out_dim, bias=False)
    nn.init.normal_(layer.weight, std=gain * in_dim**-0.5)
    return layer


def pointwise(in_dim: int, out_dim: int, gain: float = 1.0) -> nn.Conv2d:
    """The same on the pixels of a map."""
    layer = nn.Conv2d(in_dim, out_dim, 1, bias=False)
    nn.init.normal_(layer.weight, std=gain * in_dim**-0.5)
    return layer


def widen(in_dim: int, out_dim: int) -> nn.Module:
    """From the map's width to the tokens' or back; nothing where they are equal, as in the equations."""
    return nn.Identity() if in_dim == out_dim else linear(in_dim, out_dim)


class FilterTokenizer(nn.Module):
    """T = softmax_HW(X W_A)ᵀ X (equation 1), then W_V: after the means, where it costs L rows instead of HW."""

    def __init__(self, channels: int, tokens: int, token_dim: int):
        super().__init__()
        self.groups = pointwise(channels, tokens)
        self.value = widen(channels, token_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, L, D)."""
        logits = self.groups(x).flatten(2)  # B L HW
        return self.value(pool_pixels(logits, x))


class RecurrentTokenizer(nn.Module):
    """W_R = T_in W_{T→R}/√C, T = softmax_HW(X W_Rᵀ)ᵀ X (equation 2), then W_V: the tokens before say what to look for."""

    def __init__(self, channels: int, token_dim: int, printed: bool = False):
        super().__init__()
        self.scale: float = 1.0 if printed else channels**-0.5
        gain = channels**-0.5 if printed else 1.0
        self.groups = linear(token_dim, channels, gain)
        self.value = widen(channels, token_dim)

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """(B, C, H, W), tokens of the module before (B, L, D) → (B, L, D)."""
        logits = (self.groups(previous) * self.scale) @ x.flatten(2)  # B L HW
        return self.value(pool_pixels(logits, x))


class PoolingTokenizer(nn.Module):
    """The map resized bilinearly to √L × √L (table 3's plain baseline), then W_V."""

    def __init__(self, channels: int, tokens: int, token_dim: int):
        super().__init__()
        self.side = round(tokens**0.5)
        if self.side**2 != tokens:
            raise ValueError(f"the pooling tokenizer needs a square number of tokens, got {tokens}")
        self.value = widen(channels, token_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, L, D)."""
        x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return self.value(x.flatten(2).transpose(1, 2))  # B L C → B L D


class ClusteringTokenizer(nn.Module):
    """Equation 1 with the centroids of the image's own pixels for W_A (table 3), then W_V. No gradient in the centroids."""

    def __init__(self, channels: int, tokens: int, token_dim: int):
        super().__init__()
        self.tokens = tokens
        self.value = widen(channels, token_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, L, D)."""
        pixels = unit_length(x.detach().flatten(2).transpose(1, 2))  # B HW C
        logits = kmeans(pixels, self.tokens) @ x.flatten(2)  # B L HW
        return self.value(pool_pixels(logits, x))


def unit_length(pixels: Tensor) -> Tensor:
    """x/|x| over the last axis. The largest channel goes first: |x|² of 1024 channels would overflow FP16."""
    pixels = pixels / pixels.abs().amax(2, keepdim=True).clamp(min=TINY)
    return pixels / pixels.norm(dim=2, keepdim=True).clamp(min=TINY)


def kmeans(pixels: Tensor, clusters: int) -> Tensor:
    """Lloyd's algorithm from evenly spaced pixels, a fixed number of rounds: (B, N, C) → centroids (B, L, C).

    A centroid that no pixel is nearest to stays where it is; of two equally near the first counts.
    """
    count, index = pixels.shape[1], torch.arange(clusters, device=pixels.device)
    centroids = pixels[:, (2 * index + 1) * count // (2 * clusters)]  # B L C
    for _ in range(KMEANS_ITERATIONS):
        half_square = centroids.square().sum(2).unsqueeze(1) / 2  # B 1 L
        nearest = (pixels @ centroids.transpose(1, 2) - half_square).argmax(2, keepdim=True)  # B N 1
        member = (nearest == index).to(pixels.dtype)  # B N L
        size = member.sum(1).unsqueeze(2)  # B L 1
        means = member.transpose(1, 2) @ pixels / size.clamp(min=1)  # B L C
        centroids = torch.where(size > 0, means, centroids)
    return centroids


class TokenMixer(nn.Module):
    """The transformer between tokens (equations 3 and 4), normalised before and after: (B, L, D) → (B, L, D).

    T' = T + softmax_L((T K)(T Q)ᵀ/√d) T, then T' + ReLU(T' F₁) F₂.
    """

    def __init__(self, token_dim: int, drop_path: float, printed: bool = False):
        super().__init__()
        self.scale: float = 1.0 if printed else ATTENTION_DIM**-0.5
        gain = ATTENTION_DIM**-0.25 if printed else 1.0
        self.norm1 = nn.Identity() if printed else nn.LayerNorm(token_dim)
        self.key = linear(token_dim, ATTENTION_DIM, gain)
        self.query = linear(token_dim, ATTENTION_DIM, gain)
        self.fc1 = linear(token_dim, token_dim // 2)
        self.fc2 = linear(token_dim // 2, token_dim)
        self.norm2 = nn.Identity() if printed else nn.LayerNorm(token_dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm1(tokens)
        logits = (self.key(tokens) * self.scale) @ self.query(tokens).transpose(1, 2)  # B L L
        tokens = tokens + self.drop_path(torch.softmax(logits, dim=-1) @ tokens)
        return self.norm2(tokens + self.drop_path(self.fc2(F.relu(self.fc1(tokens)))))


class Projector(nn.Module):
    """X + softmax_L((X W_Q)(T W_K)ᵀ/√C) T (equation 5), T as wide as the map by W_V: what tokens know goes to the pixels."""

    def __init__(self, channels: int, token_dim: int, drop_path: float, printed: bool = False):
        super().__init__()
        self.scale: float = 1.0 if printed else channels**-0.5
        gain = channels**-0.25 if printed else 1.0
        self.query: nn.Module = pointwise(channels, channels, gain)
        self.key = linear(token_dim, channels, gain)
        self.value = widen(token_dim, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, C, H, W), (B, L, D) → (B, C, H, W)."""
        attention = torch.softmax(self.logits(x, self.key(tokens) * self.scale), dim=-1)  # B HW L
        update = (attention @ self.value(tokens)).transpose(1, 2).reshape(x.shape)  # B C H W
        return x + self.drop_path(update)

    def logits(self, x: Tensor, key: Tensor) -> Tensor:
        """(B, C, H, W), scaled keys (B, L, C) → (B, HW, L)."""
        return self.query(x).flatten(2).transpose(1, 2) @ key.transpose(1, 2)


class TokenSideProjector(Projector):
    """The same function, because (X W_Q) Kᵀ = X (K W_Qᵀ)ᵀ, with W_Q on L tokens instead of HW pixels: for large maps.

    `query.weight` is W_Q itself, (C, C); in `Projector` it is the transpose, a 1×1 convolution.
    """

    def __init__(self, channels: int, token_dim: int, drop_path: float, printed: bool = False):
        super().__init__(channels, token_dim, drop_path, printed)
        self.query: nn.Module = linear(channels, channels, channels**-0.25 if printed else 1.0)

    def logits(self, x: Tensor, key: Tensor) -> Tensor:
        """(B, C, H, W), scaled keys (B, L, C) → (B, HW, L)."""
        return x.flatten(2).transpose(1, 2) @ self.query(key).transpose(1, 2)


class VisualTransformer(nn.Module):
    """One module: tokens out of the map, among themselves, and back into the map (no projector: the map stays)."""

    def __init__(self, tokenizer: nn.Module, mixer: TokenMixer, projector: Projector | None):
        super().__init__()
        self.tokenizer, self.mixer, self.projector = tokenizer, mixer, projector

    def forward(self, x: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), tokens of the module before (None in the first) → map (B, C, H, W), tokens (B, L, D)."""
        recurrent = isinstance(self.tokenizer, RecurrentTokenizer)
        tokens = self.mixer(self.tokenizer(x, previous) if recurrent else self.tokenizer(x))
        return (x if self.projector is None else self.projector(x, tokens)), tokens
