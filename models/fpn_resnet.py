"""Panoptic FPN's semantic branch and VT-FPN on ResNets: images → logits of every pixel.

Kirillov et al. 2019 (arXiv 1901.02446, section 3.1); Wu et al. 2020 (arXiv 2006.03677, sections 4 and 5.3). The trunk keeps
timm's ResNet names (conv1, bn1, layer1 … layer4), so its weights load into it.
"""

from dataclasses import dataclass
from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from models.pyramid import FeaturePyramid, SemanticBranch, TokenPyramid
from models.registration import ImageSize, height_width, refuse_pretrained, register_variant

STRIDE = 32  # of the trunk's last map
NUM_CLASSES = 54  # of COCO's panoptic stuff annotations: 53 kinds of stuff and "things"


@dataclass(frozen=True)
class Trunk:
    """A timm ResNet: its blocks per stage, how wide the stages are before a bottleneck's expansion, and its stem."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 64
    stem_type: str = ""

    @property
    def map_channels(self) -> list[int]:
        """Channels of the four maps, strides 4 to 32."""
        return [wide * self.block.expansion for wide in self.channels]


@dataclass(frozen=True)
class Variant:
    """One row of the family. `token_dim` None is FPN; `width` is the neck's, `branch_width` the pixel head's."""

    trunk: Trunk
    token_dim: int | None = None
    tokens: int = 8  # of each of the four maps
    width: int = 256
    branch_width: int = 128
    image_size: int = 512  # pixels per side, where none is asked for


RESNET18 = Trunk(BasicBlock, (2, 2, 2, 2))
RESNET50 = Trunk(Bottleneck, (3, 4, 6, 3))
RESNET101 = Trunk(Bottleneck, (3, 4, 23, 3))
MINI = Trunk(BasicBlock, (1, 1, 1, 1), channels=(32, 64, 128, 256), stem_width=16, stem_type="deep")
VARIANTS = {
    "fpn_resnet18": Variant(RESNET18),
    "fpn_resnet50": Variant(RESNET50),
    "fpn_resnet101": Variant(RESNET101),
    "fpn_mini": Variant(MINI, width=64, branch_width=64, image_size=96),
    "vt_fpn_resnet18": Variant(RESNET18, token_dim=1024),
    "vt_fpn_resnet50": Variant(RESNET50, token_dim=1024),
    "vt_fpn_resnet101": Variant(RESNET101, token_dim=1024),
    "vt_fpn_mini": Variant(MINI, token_dim=256, width=64, branch_width=64, image_size=96),
}


def make_neck(variant: Variant, drop_path: float) -> nn.Module:
    """Four maps of the trunk → four maps `variant.width` wide."""
    channels = variant.trunk.map_channels
    if variant.token_dim is None:
        return FeaturePyramid(channels, variant.width)
    return TokenPyramid(channels, variant.width, variant.tokens, variant.token_dim, drop_path)


def check_size(height: int, width: int) -> None:
    """ValueError for images that the trunk does not halve five times without a remainder."""
    if height % STRIDE or width % STRIDE or height < STRIDE or width < STRIDE:
        raise ValueError(f"images of {height} × {width} px do not fit: height and width are multiples of {STRIDE}")


class FPNResNet(nn.Module):
    """Normalised images (B, in_chans, H, W) → logits (B, num_classes, H, W), or features (B, branch_width, H, W) for 0.

    Logits are those of stride 4, up-sampled bilinearly once. `img_size` is (H, W), or one number for both; ValueError where
    they are not multiples of 32. Weights do not depend on it. Stochastic depth rises linearly over the trunk's blocks; the
    transformer and the projectors have its last rate.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        img_size: ImageSize,
        num_classes: int = NUM_CLASSES,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        check_size(*height_width(img_size))
        self.variant, self.img_size, self.num_classes = variant, img_size, num_classes
        self.num_features = variant.branch_width
        trunk = ResNet(
            variant.trunk.block, variant.trunk.blocks, channels=variant.trunk.channels, in_chans=in_chans,
            stem_width=variant.trunk.stem_width, stem_type=variant.trunk.stem_type, drop_path_rate=drop_path_rate,
        )  # fmt: skip
        self.conv1, self.bn1, self.act1, self.maxpool = trunk.conv1, trunk.bn1, trunk.act1, trunk.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        self.neck = make_neck(variant, drop_path_rate)
        self.branch = SemanticBranch(len(variant.trunk.channels), variant.width, variant.branch_width)
        self.head = _make_head(variant.branch_width, num_classes)
        self.upsample = nn.Upsample(scale_factor=4.0, mode="bilinear", align_corners=False)

    def no_weight_decay(self) -> set[str]:
        """timm's optimizer grouping asks for this."""
        return set()

    def decoder_names(self) -> set[str]:
        """The weights that a ResNet does not have: those of neck and pixel head."""
        return {name for name in self.state_dict() if name.startswith(("neck.", "branch."))}

    def get_classifier(self) -> nn.Module:
        """timm's name for the last layer: a 1×1 convolution here."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for another class count; 0 takes it away."""
        self.num_classes = num_classes
        self.head = _make_head(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head sees, (B, branch_width, H/4, W/4)."""
        check_size(x.shape[2], x.shape[3])
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))  # B C H/4 W/4
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return self.branch(self.neck(maps))

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.head(self.forward_features(x)))


def _make_head(channels: int, num_classes: int) -> nn.Module:
    """The classifier of pixels, (B, channels, H, W) → (B, num_classes, H, W), with fresh weights; for 0 classes none."""
    if num_classes == 0:
        return nn.Identity()
    head = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    return head


def _register(name: str, variant: Variant) -> None:
    """Register one row with timm."""

    def create(
        pretrained: bool = False, *, img_size: ImageSize | None = None, num_classes: int = NUM_CLASSES, in_chans: int = 3,
        drop_path_rate: float = 0.0, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None,
        cache_dir: str | None = None,
    ) -> FPNResNet:  # fmt: skip
        refuse_pretrained(pretrained, name)
        return FPNResNet(
            variant, img_size=img_size or variant.image_size, num_classes=num_classes, in_chans=in_chans,
            drop_path_rate=drop_path_rate,
        )  # fmt: skip

    register_variant(create, name, variant)


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
