"""The network as it is deployed, which is what is exported and what is trained with quantization."""

import torch
from torch import nn

from calib.preprocess import Preprocess
from export.merge import merge_branches
from pipeline.console.figures import counted


def deploy(model: nn.Module, spec: Preprocess) -> tuple[nn.Module, list[str]]:
    """The network as it is exported, with its branches for training merged, and the names of the modules that were."""
    deployed, merged, reason = merge_branches(model, torch.zeros(2, spec.channels, spec.height, spec.width))
    if merged:
        print(
            f"           {counted(len(merged), 'module')} merged, which computes the same: branches for training, BatchNorm"
        )
    elif reason:
        print(f"           its modules for training are not merged: {reason}")
    return deployed, merged
