"""The exact convolution form of soft split + LayerNorm + Linear."""

import pytest
import torch
from torch import nn

from models.soft_split import SplitShape, split_norm_project, split_project, window_parts


def unfolded(x: torch.Tensor, split: SplitShape) -> torch.Tensor:
    return nn.functional.unfold(x, split.kernel, padding=split.padding, stride=split.stride).transpose(1, 2)


def flat_images(dtype: torch.dtype) -> torch.Tensor:
    """Large constant background with one small textured patch: what E[x²] − μ² cannot do in float32."""
    x = torch.full((2, 3, 32, 32), 2.64, dtype=dtype)
    x[:, :, 10:16, 12:18] += torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3)).to(dtype)
    x[:, :, 20:26] += 1e-3 * torch.randn(2, 3, 6, 32, generator=torch.Generator().manual_seed(4)).to(dtype)
    return x


@pytest.mark.parametrize(
    "split", [SplitShape(7, 4, 2), SplitShape(3, 2, 1), SplitShape(3, 1, 1), SplitShape(5, 3, 0), SplitShape(4, 4, 0)]
)
@pytest.mark.parametrize("channels", [1, 3, 64])
def test_equals_the_literal_form(split: SplitShape, channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    width = channels * split.kernel**2
    norm, linear = nn.LayerNorm(width).double(), nn.Linear(width, 24).double()
    for parameter in (*norm.parameters(), *linear.parameters()):
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(2, channels, 20, 17, generator=generator, dtype=torch.float64) * 3 + 5
    with torch.no_grad():
        difference = (split_norm_project(x, split, norm, linear) - linear(norm(unfolded(x, split)))).abs()
        plain = (split_project(x, split, linear) - linear(unfolded(x, split))).abs()
    assert difference.max() < 1e-9, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    assert plain.max() < 1e-9, f"max {plain.max():.2e}"


def test_the_variance_does_not_cancel_on_flat_backgrounds() -> None:
    split = SplitShape(7, 4, 2)
    exact = unfolded(flat_images(torch.float64), split).var(2, unbiased=False)
    ours = window_parts(flat_images(torch.float32), split)[2].flatten(1).double()
    x = flat_images(torch.float32)
    windows = unfolded(x, split)
    naive = (windows.square().mean(2) - windows.mean(2).square()).double()

    def rstd_error(variance: torch.Tensor) -> float:
        return float(((variance + 1e-5).rsqrt() / (exact + 1e-5).rsqrt() - 1).abs().max())

    assert rstd_error(ours) < 1e-3, f"ours {rstd_error(ours):.2e}"
    assert rstd_error(naive) > 20 * rstd_error(ours), f"naive {rstd_error(naive):.2e}: this test would show nothing"


def test_output_size() -> None:
    assert SplitShape(7, 4, 2).output_size(224) == 56
    assert SplitShape(3, 2, 1).output_size(7) == 4


def test_flat_windows_give_exactly_the_bias() -> None:
    """On a flat grey image nothing of the level is left, whatever the weights: not its rounding error times 1/√ε either."""
    split = SplitShape(7, 4, 2)
    norm, linear = nn.LayerNorm(147), nn.Linear(147, 24)
    with torch.no_grad():
        y = split_norm_project(torch.full((1, 3, 32, 32), 2.64), split, norm, linear).view(8, 8, 24)
    assert torch.equal(y[1:7, 1:7], linear.bias.expand(6, 6, 24) + (linear.weight @ norm.bias))
