"""Which models the project ships, and which of timm's the T2T-ViT paper compares them with."""

from models import fpn_resnet, t2t_vit, vt_resnet

FAMILY = (*t2t_vit.VARIANTS, *vt_resnet.VARIANTS)  # classify images
SEGMENTATION = tuple(fpn_resnet.VARIANTS)  # classify pixels
# arXiv 2101.11986, tables 2 to 4; timm's vit_small is DeiT-S's shape, the paper's ViT-S/16 has 8 blocks of width 768.
BASELINES = (
    "resnet50",
    "resnet101",
    "resnet152",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
)
