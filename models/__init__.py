"""The networks. Importing this package registers every T2T-ViT with timm: `timm.create_model("t2t_vit_14")`."""

from models.t2t_vit import VARIANTS, T2TViT, Variant
from models.vt_resnet import VTResNet

__all__ = ["VARIANTS", "T2TViT", "VTResNet", "Variant"]
