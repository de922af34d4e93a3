"""Merge the branches that a network has for training only: MobileOne, RepViT, FastViT, LeViT and others of timm.

Their convolutions and identities side by side, each with BatchNorm, compute one convolution (RepVGG, arXiv 2101.03697,
section 3.3), which is what is deployed: fewer and larger layers, and one range for their sum instead of one for each branch.
"""

import torch
from torch import nn

from calib.precision.closeness import compare_logits
from calib.preprocess import Preprocess

METHODS = ("fuse", "reparameterize", "switch_to_deploy")  # as timm's modules call it


def merge_branches(model: nn.Module, spec: Preprocess) -> tuple[nn.Module, list[str], str]:
    """A merged copy of `model` (eval mode; (B, C, H, W) of `spec` → logits), the names of the modules that timm merges, and "".

    Where nothing is to be merged, or the copy fails or has other logits for two random images, it is the model itself, no
    name, and in the latter case the reason.
    """
    names = [name for name, module in model.named_modules() if _can_merge(module)]
    if not names:
        return model, [], ""
    from timm.models import reparameterize_model

    images = torch.randn(2, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            merged = reparameterize_model(model).eval()
            found = compare_logits(model(images).numpy(), merged(images).numpy())
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return model, [], " ".join(str(error).split()) or type(error).__name__
    return (merged, names, "") if found.near else (model, [], f"its logits would be others: {found}")


def _can_merge(module: nn.Module) -> bool:
    """Whether it is one of timm's that has such a method; another author's may mean something else by that name."""
    return type(module).__module__.startswith("timm.") and any(hasattr(module, method) for method in METHODS)
