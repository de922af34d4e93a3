"""Replace `nn.Unfold` by an equal grouped convolution: exporters have no operator for it and write dozens of nodes."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedConvUnfold(nn.Module):
    """`nn.Unfold` as one convolution with one-hot kernels: (B, C, H, W) → (B, C·kh·kw, L), equal to the bit."""

    kernels: Tensor

    def __init__(self, unfold: nn.Unfold, channels: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        height, width = _pair(unfold.kernel_size)
        self.stride, self.padding, self.dilation = map(_pair, (unfold.stride, unfold.padding, unfold.dilation))
        self.channels = channels
        one_hot = torch.eye(height * width, dtype=dtype).view(height * width, 1, height, width)
        self.register_buffer("kernels", one_hot.repeat(channels, 1, 1, 1), persistent=False)  # C·kh·kw 1 kh kw

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(
            x, self.kernels, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.channels
        )
        return y.flatten(2)


def replace_unfolds(model: nn.Module, example: Tensor) -> tuple[nn.Module, list[str]]:
    """A copy of `model` without `nn.Unfold`, and the names of those replaced; `example` tells their channel counts.

    The model itself is returned where there is nothing to replace.
    """
    unfolds = {name: module for name, module in model.named_modules() if isinstance(module, nn.Unfold)}
    if not unfolds:
        return model, []
    channels: dict[str, int] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: channels.__setitem__(name, inputs[0].shape[1]))
        for name, module in unfolds.items()
    ]
    with torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    model = copy.deepcopy(model)
    for name, count in channels.items():
        unfold = model.get_submodule(name)
        assert isinstance(unfold, nn.Unfold)
        model.set_submodule(name, GroupedConvUnfold(unfold, count, example.dtype).to(example.device))
    return model, sorted(channels)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
