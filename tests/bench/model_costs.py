"""`python tests/bench/model_costs.py`: other ways to count the networks whose published numbers are not ours.

docs/models.md holds what it prints. MACs are at 224 px, in G; everything is counted on the meta device.
"""

import sys
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from literal import literal

from models.backbone import Block
from pipeline.commands.model_table import ROWS, count_cost

SIZE = 224
COUNTED = ("t2t_vit_14", "t2t_vit_24", "t2t_vit_t_24", "t2t_vit_7", "t2t_vit_10", "t2t_vit_14_wide", "t2t_vit_dense",
           "t2t_vit_14_se", "t2t_vit_16_ghost")  # fmt: skip
RESNETS = ("resnet50", "resnet101", "resnet152")
POOLS = (nn.MaxPool2d, nn.AdaptiveAvgPool2d)


def on_meta(name: str) -> nn.Module:
    """A timm model without weights."""
    with torch.device("meta"):
        return timm.create_model(name)


def published_macs(name: str) -> str:
    """What the table holds of `name`."""
    (found,) = [row.published for row in ROWS if row.model == name]
    assert found is not None
    return found.macs


def family_row(name: str) -> str:
    """A network of the T2T-ViT family in the authors' operations, and the same less q·kᵀ and attention·v of the backbone."""
    model = on_meta(name)
    macs = count_cost(literal(model, backbone=True), SIZE).macs
    tokens = model.pos_embed.shape[1]
    products = sum(2 * tokens**2 * block.norm1.weight.numel() for block in model.blocks if isinstance(block, Block))
    return f"| {name} | {macs / 1e9:.3f} | {(macs - products) / 1e9:.3f} | {published_macs(name)} |"


def resnet_row(name: str) -> str:
    """A ResNet's convolutions and products, and with two operations a value for BatchNorm, one for ReLU and pooling."""
    model, extra = on_meta(name), 0

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal extra
        if isinstance(module, POOLS):
            extra += inputs[0].numel()
        elif isinstance(module, nn.BatchNorm2d | nn.ReLU):
            extra += output.numel() * (2 if isinstance(module, nn.BatchNorm2d) else 1)

    for module in model.modules():
        module.register_forward_hook(hook)
    macs = count_cost(model, SIZE).macs
    return f"| {name} | {macs / 1e9:.3f} | {(macs + extra) / 1e9:.3f} | {published_macs(name)} |"


def vit_lines() -> list[str]:
    """The paper's ViT-S/16, which timm has no longer, and ViT-B/16 without its two loose parameters."""
    with torch.device("meta"):
        small = VisionTransformer(embed_dim=768, depth=8, num_heads=8, mlp_ratio=3, qkv_bias=False)
    cost, base = count_cost(small, SIZE), on_meta("vit_base_patch16_224")
    loose = base.pos_embed.numel() + base.cls_token.numel()
    params = sum(parameter.numel() for parameter in base.parameters())
    return [
        f"8 blocks of 768, MLP ratio 3: {cost.params / 1e6:.2f} M parameters, {cost.macs / 1e9:.3f} G MACs",
        f"vit_base_patch16_224: {params / 1e6:.2f} M parameters, {(params - loose) / 1e6:.2f} M without "
        "position embedding and class token",
    ]


def main() -> None:
    """Print two tables and two lines."""
    print(
        "| model | authors' operations | less the backbone's attention products | published |\n| --- | ---: | ---: | ---: |"
    )
    print("\n".join(family_row(name) for name in COUNTED))
    print(
        "\n| model | convolutions, products | with BatchNorm, ReLU, pooling | published |\n| --- | ---: | ---: | ---: |"
    )
    print("\n".join(resnet_row(name) for name in RESNETS))
    print("\n" + "\n".join(f"- {line}" for line in vit_lines()))


if __name__ == "__main__":
    main()
