"""What cannot be exported says which module and why."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.explain import find_culprit
from export.onnx_export import export_onnx

SPEC = Preprocess(8, 8, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Deciding(nn.Module):
    """A Python decision on a value: no graph can hold it."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class FixedBatch(nn.Module):
    """Works for a batch of two alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(2).view(2, 1, 1, 1)


class Variadic(nn.Module):
    """Takes any number of tensors, and exports."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 1), inner])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def network(inner: nn.Module) -> nn.Module:
    return nn.Sequential(nn.ReLU(), Wrapped(inner), nn.Flatten(), nn.Linear(192, 4)).eval()


@pytest.mark.parametrize(("inner", "why"), [(Deciding(), "data-dependent"), (FixedBatch(), "batch")])
def test_the_innermost_module_is_named(inner: nn.Module, why: str) -> None:
    name, module, reason = find_culprit(network(inner), torch.zeros(2, 3, 8, 8))
    assert (name, type(module)) == ("1.layers.1", type(inner))
    assert why in reason.lower(), reason


def test_a_module_of_many_inputs_is_not_blamed() -> None:
    model = nn.Sequential(Variadic(), network(Deciding())).eval()
    name, module, _ = find_culprit(model, torch.zeros(2, 3, 8, 8))
    assert (name, type(module)) == ("1.1.layers.1", Deciding)


@pytest.mark.slow
def test_the_exporter_says_it(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"(?s)cannot be exported.*its module 1\.layers\.1 \(Deciding\): .*data-dependent"
    ):
        export_onnx(network(Deciding()), SPEC, tuple("abcd"), tmp_path / "raw.onnx")
    assert not (tmp_path / "raw.onnx").exists()


def test_a_network_that_exports_has_no_culprit() -> None:
    name, module, _ = find_culprit(fine := network(nn.Identity()), torch.zeros(2, 3, 8, 8))
    assert name == "" and module is fine
