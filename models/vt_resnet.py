"""VT-ResNet (Wu et al. 2021, arXiv 2006.03677, section 4): a ResNet whose last stage is Visual Transformer modules.

The convolutions keep timm's ResNet names (conv1, bn1, layer1 … layer3), so its weights load into them.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from timm.layers import trunc_normal_
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from models.backbone import classifier
from models.registration import ImageSize, height_width, refuse_pretrained, register_variant
from models.visual_transformer import (
    ClusteringTokenizer,
    FilterTokenizer,
    PoolingTokenizer,
    Projector,
    RecurrentTokenizer,
    TokenMixer,
    VisualTransformer,
)

IMAGE_SIZE = 224
TOKENS = 16
TOKEN_DIM = 1024
STRIDE = 16  # of the map the modules work on

Tokenizer = Literal["filter", "pooling", "clustering"]


@dataclass(frozen=True)
class Variant:
    """One row of the family: the ResNet, its blocks per stage, and how wide the map is inside the modules.

    The last number of `blocks` is that of the modules which stand for the ResNet's last stage.
    """

    block: type[nn.Module]
    blocks: tuple[int, int, int, int]
    stage4_channels: int
    channels: int


VARIANTS = {
    "vt_resnet18": Variant(BasicBlock, (2, 2, 2, 2), 256, 512),
    "vt_resnet34": Variant(BasicBlock, (3, 4, 6, 3), 256, 512),
    "vt_resnet50": Variant(Bottleneck, (3, 4, 6, 3), 1024, 1024),
    "vt_resnet101": Variant(Bottleneck, (3, 4, 23, 3), 1024, 1024),
}


def make_tokenizer(kind: Tokenizer, channels: int, tokens: int) -> nn.Module:
    """The first module's tokenizer. ValueError for a kind that there is not."""
    if kind == "filter":
        return FilterTokenizer(channels, tokens, TOKEN_DIM)
    if kind == "pooling":
        return PoolingTokenizer(channels, tokens, TOKEN_DIM)
    if kind == "clustering":
        return ClusteringTokenizer(channels, tokens, TOKEN_DIM)
    raise ValueError(f"there is no tokenizer {kind!r}: tokenizer is one of {', '.join(get_args(Tokenizer))}")


def make_modules(
    variant: Variant, tokenizer: Tokenizer, recurrent: bool, tokens: int, printed: bool, drop_path: list[float]
) -> nn.ModuleList:
    """One module per rate of `drop_path`. The last has no projector, because its map is not used."""
    modules = nn.ModuleList()
    for index, rate in enumerate(drop_path):
        if index == 0:
            extract = make_tokenizer(tokenizer, variant.channels, tokens)
        elif recurrent:
            extract = RecurrentTokenizer(variant.channels, TOKEN_DIM, printed)
        else:
            extract = FilterTokenizer(variant.channels, tokens, TOKEN_DIM)
        last = index + 1 == len(drop_path)
        projector = None if last else Projector(variant.channels, TOKEN_DIM, rate, printed)
        modules.append(VisualTransformer(extract, TokenMixer(TOKEN_DIM, rate, printed), projector))
    return modules


class VTResNet(nn.Module):
    """Normalised images (B, in_chans, H, W) → logits (B, num_classes), or features (B, 1024) for 0.

    `img_size` is (H, W), or one number for both.
    `tokenizer` is the first module's; the others' are recurrent, or filter-based where `recurrent` is false (table 4).
    `printed` takes the paper's equations as they stand, without division and normalisation.
    Stochastic depth rises linearly over blocks and modules.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        img_size: ImageSize,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        tokenizer: Tokenizer = "filter",
        recurrent: bool = True,
        tokens: int = TOKENS,
        printed: bool = False,
    ):
        super().__init__()
        self.variant, self.img_size, self.num_classes = variant, img_size, num_classes
        self.num_features = TOKEN_DIM
        height, width = height_width(img_size)
        pixels = -(-height // STRIDE) * -(-width // STRIDE)
        if tokenizer == "clustering" and pixels < tokens:
            raise ValueError(
                f"the map of {height} × {width} px images has {pixels} pixels, too few for {tokens} clusters"
            )
        trunk = ResNet(variant.block, variant.blocks, in_chans=in_chans, drop_path_rate=drop_path_rate)
        self.conv1, self.bn1, self.act1, self.maxpool = trunk.conv1, trunk.bn1, trunk.act1, trunk.maxpool
        self.layer1, self.layer2, self.layer3 = trunk.layer1, trunk.layer2, trunk.layer3
        self.widen = _widen_map(variant)
        total = sum(variant.blocks)
        rates = [drop_path_rate * index / (total - 1) for index in range(total - variant.blocks[3], total)]
        self.stage5 = make_modules(variant, tokenizer, recurrent, tokens, printed, rates)
        self.head = _make_head(num_classes)

    def no_weight_decay(self) -> set[str]:
        """timm's optimizer grouping asks for this."""
        return set()

    def get_classifier(self) -> nn.Module:
        """timm's name for the last layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for another class count; 0 takes it away."""
        self.num_classes = num_classes
        self.head = _make_head(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The mean of the last module's tokens, (B, 1024)."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))  # B 64 size/4 size/4
        x = self.layer3(self.layer2(self.layer1(x)))  # B stage4_channels size/16 size/16
        x = self.widen(x)  # B channels size/16 size/16
        tokens: Tensor | None = None
        for module in self.stage5:
            x, tokens = module(x, tokens)
        assert tokens is not None, "every variant has modules"
        return tokens.mean(1)  # B L D → B D

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


def _make_head(num_classes: int) -> nn.Module:
    """The classifier, (B, 1024) → (B, num_classes), with fresh weights; for 0 classes none."""
    head = classifier(TOKEN_DIM, num_classes)
    if isinstance(head, nn.Linear):
        trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    return head


def _widen_map(variant: Variant) -> nn.Module:
    """From the width of the ResNet's fourth stage to that of the modules; nothing where they are equal."""
    if variant.stage4_channels == variant.channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(variant.stage4_channels, variant.channels, 1, bias=False), nn.BatchNorm2d(variant.channels)
    )


def _register(name: str, variant: Variant) -> None:
    """Register one row with timm."""

    def create(
        pretrained: bool = False, *, img_size: ImageSize | None = None, num_classes: int = 1000, in_chans: int = 3,
        drop_path_rate: float = 0.0, tokenizer: Tokenizer = "filter", recurrent: bool = True, tokens: int = TOKENS,
        printed: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None, cache_dir: str | None = None,
    ) -> VTResNet:  # fmt: skip
        refuse_pretrained(pretrained, name)
        return VTResNet(
            variant, img_size=img_size or IMAGE_SIZE, num_classes=num_classes, in_chans=in_chans,
            drop_path_rate=drop_path_rate, tokenizer=tokenizer, recurrent=recurrent, tokens=tokens, printed=printed,
        )  # fmt: skip

    register_variant(create, name, variant)


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
