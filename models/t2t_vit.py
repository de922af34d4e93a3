"""T2T-ViT (Yuan et al. 2021, arXiv 2101.11986): the family is the table, the network reads like the paper.

Parameter names and shapes are upstream's (yitu-opensource/T2T-ViT), so published checkpoints load strictly.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from models.attention import Mlp
from models.backbone import Attention, Block, classifier, sinusoid_positions
from models.backbone_studies import GHOST_MLP_RATIO, DenseStages, GhostAttention, GhostMlp, SEAttention, dense_blocks
from models.registration import ImageSize, height_width, refuse_pretrained, register_variant
from models.soft_split import SplitShape, split_project, tokens_to_map
from models.token_attention import TokenPerformer, TokenTransformer

TOKEN_DIM = 64
SPLITS = (SplitShape(7, 4, 2), SplitShape(3, 2, 1), SplitShape(3, 2, 1))


@dataclass(frozen=True)
class Variant:
    """One row of the family.

    `block` is what the backbone repeats; `embed_dim` is the width in front of it, and behind it except for dense stages.
    `splits` are the three soft splits; `init_std` of Linear weights, None for 1/√fan-in.
    """

    token_attention: Literal["performer", "transformer"]
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    block: Literal["plain", "se", "ghost"] | DenseStages = "plain"
    image_size: int = 224
    splits: tuple[SplitShape, SplitShape, SplitShape] = SPLITS
    init_std: float | None = 0.02


MINI_SPLITS = (SplitShape(7, 4, 2), SplitShape(3, 1, 1), SplitShape(3, 2, 1))

VARIANTS = {
    # Tables 1 and 3: beside ResNets, the token attention a performer or a transformer
    "t2t_vit_14": Variant("performer", 384, 14, 6, 3),
    "t2t_vit_19": Variant("performer", 448, 19, 7, 3),
    "t2t_vit_24": Variant("performer", 512, 24, 8, 3),
    "t2t_vit_t_14": Variant("transformer", 384, 14, 6, 3),
    "t2t_vit_t_19": Variant("transformer", 448, 19, 7, 3),
    "t2t_vit_t_24": Variant("transformer", 512, 24, 8, 3),
    # Table 4: the lite ones, beside MobileNets
    "t2t_vit_7": Variant("performer", 256, 7, 4, 2),
    "t2t_vit_10": Variant("performer", 256, 10, 4, 2),
    "t2t_vit_12": Variant("performer", 256, 12, 4, 2),
    # Table 6: designs of CNNs
    "t2t_vit_14_wide": Variant("performer", 768, 4, 12, 3),
    "t2t_vit_dense": Variant("performer", 128, 19, 8, 2, block=DenseStages(64, (3, 6, 6, 4))),
    "t2t_vit_14_se": Variant("performer", 384, 14, 6, 3, block="se"),
    "t2t_vit_14_resnext": Variant("performer", 384, 14, 32, 3),
    "t2t_vit_16_ghost": Variant("performer", 384, 16, 6, GHOST_MLP_RATIO, block="ghost"),
    # Not the paper's: trained in minutes on a CPU, for the embedded images. The second split keeps the map's size, and
    # weights start at 1/√fan-in: a network this narrow learns several times slower from upstream's 0.02.
    "t2t_vit_mini": Variant("performer", 192, 4, 3, 2, image_size=32, splits=MINI_SPLITS, init_std=None),
    "t2t_vit_t_mini": Variant("transformer", 192, 4, 3, 2, image_size=32, splits=MINI_SPLITS, init_std=None),
}


class TokensToToken(nn.Module):
    """The tokens-to-token module: image (B, C, H, W) → tokens (B, N, embed_dim)."""

    def __init__(self, variant: Variant, img_size: ImageSize, in_chans: int):
        super().__init__()
        split0, split1, self.split2 = variant.splits
        attention = TokenPerformer if variant.token_attention == "performer" else TokenTransformer
        self.attention1 = attention(in_chans * split0.kernel**2, TOKEN_DIM, split0)
        self.attention2 = attention(TOKEN_DIM * split1.kernel**2, TOKEN_DIM, split1)
        self.project = nn.Linear(TOKEN_DIM * self.split2.kernel**2, variant.embed_dim)
        self.size1 = split0.output_map(height_width(img_size))
        self.size2 = split1.output_map(self.size1)
        self.grid_size = self.split2.output_map(self.size2)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, x: Tensor) -> Tensor:
        x = tokens_to_map(self.attention1(x), self.size1)  # B 64 *size1
        x = tokens_to_map(self.attention2(x), self.size2)  # B 64 *size2
        return split_project(x, self.split2, self.project)  # B N embed_dim


def backbone_blocks(variant: Variant, drop_path_rate: float) -> tuple[nn.ModuleList, int]:
    """The backbone's blocks and the width they end with."""
    dim, heads = variant.embed_dim, variant.num_heads
    if isinstance(variant.block, DenseStages):
        return dense_blocks(variant.block, dim, heads, variant.mlp_ratio, drop_path_rate)
    blocks = nn.ModuleList()
    # on the CPU also where the network is made on the meta device, whose tensors have no values
    for rate in torch.linspace(0, drop_path_rate, variant.depth, device="cpu").tolist():
        if variant.block == "ghost":
            blocks.append(Block(dim, GhostAttention(dim, heads), GhostMlp(dim), rate))
        else:
            attention = SEAttention(dim, heads) if variant.block == "se" else Attention(dim, heads)
            blocks.append(Block(dim, attention, Mlp(dim, int(dim * variant.mlp_ratio)), rate))
    return blocks, dim


class T2TViT(nn.Module):
    """Normalised images (B, in_chans, H, W) → logits (B, num_classes); `img_size` is (H, W), or one number for both.

    For 0 classes there is no head: → features (B, num_features).
    """

    def __init__(
        self,
        variant: Variant,
        *,
        img_size: ImageSize,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.variant, self.img_size, self.num_classes = variant, img_size, num_classes
        self.embed_dim = variant.embed_dim
        self.tokens_to_token = TokensToToken(variant, img_size, in_chans)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, variant.embed_dim))
        positions = sinusoid_positions(self.tokens_to_token.num_patches + 1, variant.embed_dim)
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.blocks, self.num_features = backbone_blocks(variant, drop_path_rate)
        self.norm = nn.LayerNorm(self.num_features)
        self.head = classifier(self.num_features, num_classes)
        trunc_normal_(self.cls_token, std=0.02)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=self.variant.init_std or module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """timm's optimizer grouping asks for this."""
        return {"cls_token"}

    def get_classifier(self) -> nn.Module:
        """timm's name for the last layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for another class count; 0 takes it away."""
        self.num_classes = num_classes
        self.head = classifier(self.num_features, num_classes)
        self._init_weights(self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """The class token after the last block, (B, num_features)."""
        x = self.tokens_to_token(x)  # B N D
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed  # B N+1 D
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])  # of one token: norm(x)[:, 0] would be two more kernels of an engine

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


def _register(name: str, variant: Variant) -> None:
    """Register one row with timm."""

    def create(
        pretrained: bool = False, *, img_size: ImageSize | None = None, num_classes: int = 1000, in_chans: int = 3,
        drop_path_rate: float = 0.0, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None,
        cache_dir: str | None = None,
    ) -> T2TViT:  # fmt: skip
        refuse_pretrained(pretrained, name)
        size = img_size or variant.image_size
        return T2TViT(variant, img_size=size, num_classes=num_classes, in_chans=in_chans, drop_path_rate=drop_path_rate)

    register_variant(create, name, variant)


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
