"""Branches for training become one layer with the same results, and nothing else is touched."""

from collections.abc import Iterator

import pytest
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.levit import Levit
from torch import nn

from calib.preprocess import Preprocess
from export.merge import merge_branches

SPEC = Preprocess(64, 64, 1.0, "bilinear", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    """timm makes the merged layers in PyTorch's default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def with_statistics(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def mobileone() -> nn.Module:
    """A stem and two stages of MobileOne, the second with two branches of convolutions."""
    torch.manual_seed(0)
    blocks = tuple(
        ByoBlockCfg(type="one", d=2, c=16, s=2, gs=1, br=1.0, block_kwargs={"num_conv_branches": branches})
        for branches in (1, 2)
    )
    return with_statistics(ByobNet(ByoModelCfg(blocks=blocks, stem_type="one", stem_chs=16), num_classes=3))


def levit() -> nn.Module:
    torch.manual_seed(0)
    options = {"key_dim": 8, "depth": (1, 1), "num_heads": (2, 3), "mlp_ratio": 2}
    return with_statistics(Levit(img_size=64, embed_dim=(32, 48), num_classes=3, **options))


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize(("make", "convolutions"), [(mobileone, (12, 5)), (levit, (4, 4))])
def test_the_logits_are_the_same_in_float64(make, convolutions: tuple[int, int]) -> None:
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    merged, names, reason = merge_branches(network, SPEC)
    assert names and not reason and merged is not network
    assert (count(network, nn.Conv2d), count(merged, nn.Conv2d)) == convolutions
    assert count(merged, nn.BatchNorm1d) + count(merged, nn.BatchNorm2d) == 0
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert (merged(images) - network(images)).abs().max() < 1e-9
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


class Theirs(nn.Module):
    """Another author's `fuse` is not timm's."""

    def fuse(self) -> nn.Module:
        raise AssertionError("not called")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_what_has_no_branches_is_the_model_itself() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Theirs()).eval()
    assert merge_branches(network, SPEC) == (network, [], "")


@pytest.mark.parametrize("wrong", ["raises", "other"])
def test_a_merge_that_goes_wrong_is_not_taken(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reparameterize(self: nn.Module) -> None:
        if wrong == "raises":
            raise RuntimeError("no such\n branch")
        self.act = nn.Sigmoid()

    network = mobileone()
    monkeypatch.setattr("timm.models.byobnet.MobileOneBlock.reparameterize", reparameterize)
    kept, names, reason = merge_branches(network, SPEC)
    assert kept is network and names == []
    assert reason == "no such branch" if wrong == "raises" else "its logits would be others: SNR" in reason
