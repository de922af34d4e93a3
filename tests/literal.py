"""The oracle: T2T-ViT written as the paper and its authors do, with `nn.Unfold`, LayerNorm and Linear one after another.

Same parameter names as `models`, so one state_dict fits both. Slow, plain, and never used by the product.
"""

import math

import torch
from torch import Tensor, nn

from models import T2TViT
from models.backbone_studies import DenseStages
from models.t2t_vit import Variant


def unfold(x: Tensor, split) -> Tensor:
    """Overlapping windows, (B, C, H, W) → (B, h·w, C·k²)."""
    return nn.functional.unfold(x, split.kernel, padding=split.padding, stride=split.stride).transpose(1, 2)


def literal_performer(module: nn.Module, x: Tensor) -> Tensor:
    """Upstream's token performer on windows (B, T, C·k²), its epsilon and its unscaled exponentials."""
    k, q, v = module.kqv(module.norm1(x)).chunk(3, dim=-1)
    features = module.w.shape[0]

    def phi(x: Tensor) -> Tensor:
        return torch.exp(x @ module.w.t() - x.square().sum(-1, keepdim=True) / 2) / features**0.5

    key, query = phi(k), phi(q)
    normaliser = torch.einsum("bti,bi->bt", query, key.sum(1)).unsqueeze(2)
    context = torch.einsum("bin,bim->bnm", v, key)
    y = torch.einsum("bti,bni->btn", query, context) / (normaliser + 1e-8)
    y = v + module.proj(y)
    return y + module.mlp(module.norm2(y))


def literal_transformer(module: nn.Module, x: Tensor) -> Tensor:
    """Upstream's token transformer on windows (B, T, C·k²)."""
    q, k, v = module.attn.qkv(module.norm1(x)).chunk(3, dim=-1)
    attention = (q @ k.transpose(1, 2) * x.shape[-1] ** -0.5).softmax(-1)
    y = v + module.attn.proj(attention @ v)
    return y + module.mlp(module.norm2(y))


def literal_heads(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Head after head, softmax(q·kᵀ/√D)·v, on q, k, v (B, T, heads·D)."""
    outputs = []
    for query, key, value in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = torch.einsum("btd,bsd->bts", query, key) / math.sqrt(query.shape[-1])
        outputs.append(torch.einsum("bts,bsd->btd", scores.softmax(-1), value))
    return torch.cat(outputs, -1)


def literal_attention(heads: int, module: nn.Module, x: Tensor) -> Tensor:
    """Upstream's self-attention."""
    q, k, v = (x @ weight.t() for weight in module.qkv.weight.chunk(3))
    return module.proj(literal_heads(q, k, v, heads))


def literal_se_attention(heads: int, module: nn.Module, x: Tensor) -> Tensor:
    """Upstream's self-attention with squeeze and excitation behind the projection, channels first."""
    y = literal_attention(heads, module, x).transpose(1, 2)  # B dim T
    first, _, second, _ = module.se_layer.fc
    squeezed = nn.functional.adaptive_avg_pool1d(y, 1).flatten(1)  # B dim
    excitation = 1 / (1 + torch.exp(-((squeezed @ first.weight.t()).clamp(min=0) @ second.weight.t())))
    return torch.einsum("bct,bc->btc", y, excitation)


def cheap(operation: nn.Conv1d, x: Tensor) -> Tensor:
    """Upstream's cheap operation: the depthwise convolution itself, channels first."""
    return operation(x.transpose(1, 2)).transpose(1, 2)


def literal_ghost_attention(heads: int, module: nn.Module, x: Tensor) -> Tensor:
    """Upstream's ghost attention: each of q, k, v beside its cheap copy."""
    q, k, v = module.q(x), module.k(x), module.v(x)
    q = torch.cat((q, cheap(module.cheap_operation_q, q)), -1)
    k = torch.cat((k, cheap(module.cheap_operation_k, k)), -1)
    v = torch.cat((v, cheap(module.cheap_operation_v, v)), -1)
    return module.proj(literal_heads(q, k, v, heads))


def gelu(x: Tensor) -> Tensor:
    """x·Φ(x) with the error function."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def literal_mlp(module: nn.Module, x: Tensor) -> Tensor:
    """Upstream's two-layer MLP."""
    return module.fc2(gelu(module.fc1(x)))


def literal_ghost_mlp(module: nn.Module, x: Tensor) -> Tensor:
    """Upstream's ghost MLP: GELU of the features, then of two cheap copies of what came out."""
    x = gelu(module.fc1(x))
    return module.fc2(
        torch.cat((x, gelu(cheap(module.cheap_operation2, x)), gelu(cheap(module.cheap_operation3, x))), -1)
    )


def literal_block(variant: Variant, block: nn.Module, x: Tensor) -> Tensor:
    """One entry of upstream's `blocks` in evaluation: a transformer block of the variant's kind, or a dense transition."""
    if hasattr(block, "linear"):
        return gelu(block.linear(x))
    attention = {"se": literal_se_attention, "ghost": literal_ghost_attention}.get(variant.block, literal_attention)
    mlp = literal_ghost_mlp if variant.block == "ghost" else literal_mlp
    y = x + attention(variant.num_heads, block.attn, block.norm1(x))
    y = y + mlp(block.mlp, block.norm2(y))
    return torch.cat((x, block.dense_linear(y)), -1) if isinstance(variant.block, DenseStages) else y


class LiteralT2TViT(T2TViT):
    """The same network with the soft splits and token attentions written literally, and on demand the backbone too."""

    literal_backbone = False

    def forward_features(self, x: Tensor) -> Tensor:
        module = self.tokens_to_token
        attention = literal_performer if self.variant.token_attention == "performer" else literal_transformer
        for step, split in zip((module.attention1, module.attention2), self.variant.splits[:2], strict=True):
            tokens = attention(step, unfold(x, split))
            size = int(tokens.shape[1] ** 0.5)
            x = tokens.transpose(1, 2).reshape(x.shape[0], -1, size, size)
        x = module.project(unfold(x, self.variant.splits[2]))
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = literal_block(self.variant, block, x) if self.literal_backbone else block(x)
        return self.norm(x)[:, 0]


def literal(model: T2TViT, backbone: bool = False) -> LiteralT2TViT:
    """A literal twin of `model` in the same mode; the two share the memory of their weights.

    `backbone=True` writes the blocks literally too, in evaluation; without, a comparison shows the soft splits alone.
    """
    variant: Variant = model.variant
    with torch.device("meta"):  # no time for weights that are replaced at once
        twin = LiteralT2TViT(variant, img_size=model.img_size, num_classes=model.num_classes)
    twin.literal_backbone = backbone
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.train(model.training)
