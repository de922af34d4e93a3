"""The oracle: T2T-ViT written as the paper and its authors do, with `nn.Unfold`, LayerNorm and Linear one after another.

Same parameter names as `models`, so one state_dict fits both. Slow, plain, and never used by the product.
"""

import torch
from torch import Tensor, nn

from models import T2TViT
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


class LiteralT2TViT(T2TViT):
    """The same network with the soft splits and token attentions written literally."""

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
            x = block(x)
        return self.norm(x)[:, 0]


def literal(model: T2TViT) -> LiteralT2TViT:
    """A literal twin of `model` with the same weights, dtype and mode."""
    variant: Variant = model.variant
    twin = LiteralT2TViT(variant, img_size=model.img_size, num_classes=model.num_classes)
    twin.load_state_dict(model.state_dict())
    return twin.to(next(model.parameters()).dtype).train(model.training)
