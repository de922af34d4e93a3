"""The networks. Importing this package registers all of them with timm: `timm.create_model("t2t_vit_14")`."""

from models.fpn_resnet import FPNResNet
from models.t2t_vit import VARIANTS, T2TViT, Variant
from models.vt_resnet import VTResNet

__all__ = ["VARIANTS", "FPNResNet", "T2TViT", "VTResNet", "Variant"]
