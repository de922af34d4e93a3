"""The forty networks of `make zoo`: what people deploy, by timm's name; and the images' side where it is not their own."""

CONVOLUTIONAL = (
    "resnet18", "resnet50", "resnetv2_50", "resnext26ts", "densenet121", "regnetx_002", "regnety_002", "hgnetv2_b0",
    "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "efficientnet_b0", "efficientnet_lite0",
    "tf_efficientnetv2_b0", "ghostnetv2_100", "mobileone_s0", "repvit_m0_9", "convnext_atto", "convnextv2_atto",
    "inception_next_atto",
)  # fmt: skip
TRANSFORMERS = (
    "vit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224", "vit_small_patch14_reg4_dinov2",
    "xcit_nano_12_p16_224", "cait_xxs24_224", "swin_tiny_patch4_window7_224", "pvt_v2_b0",
)  # fmt: skip
HYBRID = (
    "maxvit_rmlp_pico_rw_256", "fastvit_t8", "efficientformerv2_s0", "mobilevitv2_050", "edgenext_xx_small", "levit_128s",
    "tiny_vit_5m_224", "nextvit_small", "efficientvit_b0", "efficientvit_m0", "poolformer_s12", "mobilenetv4_hybrid_medium",
)  # fmt: skip
KINDS = {"CNN": CONVOLUTIONAL, "ViT": TRANSFORMERS, "hybrid": HYBRID}
FORTY = (*CONVOLUTIONAL, *TRANSFORMERS, *HYBRID)
SIZES = {"vit_small_patch14_reg4_dinov2": 224}  # its own 518 px are minutes for each image of a training


def kind_of(name: str) -> str:
    """CNN, ViT or hybrid."""
    return next((kind for kind, names in KINDS.items() if name in names), "")
