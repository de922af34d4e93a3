"""A program as XNNPACK takes it: each operator computes what it did, and the operators that it does not take are gone."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.engines.executorch.forms import OURS, as_xnnpack_takes_it

ATEN = torch.ops.aten
Case = tuple[Callable[[Tensor], Tensor], set[str]]  # of maps (2, 6, 5, 4), and the operators that have to be gone
WEIGHT = torch.randn(4, generator=torch.Generator().manual_seed(0))

CASES: dict[str, Case] = {
    "matmul of four dimensions": (lambda x: x @ x.transpose(2, 3), {"matmul"}),
    "matmul with a matrix that is computed": (lambda x: x @ x[0, 0, :4], {"matmul"}),
    "expand to its own size": (lambda x: x.expand(2, 6, -1, 4) + 1, {"expand"}),
    "split": (lambda x: torch.cat(x.split(4, dim=1)[::-1], 1), {"split"}),
    "split by sizes": (lambda x: torch.cat(x.split([1, 2, 2], dim=2)[::-1], 2), {"split_with_sizes"}),
    "select": (lambda x: x.select(1, -2), {"select"}),
    "unsqueeze in front": (lambda x: x.unsqueeze(0), {"unsqueeze"}),
    "squeeze": (lambda x: x[:, 2:3].squeeze(1), {"squeeze"}),
    "squeeze of what is no 1": (lambda x: x[:, 2:3].squeeze([1, 2]), {"squeeze"}),
    "sum over channels": (lambda x: x.sum(1, keepdim=True), {"sum"}),
    "sum over tokens": (lambda x: x.flatten(1, 2).sum(1), {"sum"}),
    "sum over the last axes": (lambda x: x.sum((2, 3)), {"sum"}),
    "sum over axes that are apart": (lambda x: x.sum((1, 3)), set()),
    "mean over channels": (lambda x: x.mean(1), {"mean"}),
    "mean over a map": (lambda x: x.mean((2, 3)), set()),
    "mean over the last axis": (lambda x: x.mean(-1, keepdim=True), {"mean"}),
    "largest of a map": (lambda x: x.amax((2, 3), keepdim=True), {"amax"}),
    "largest of the last axis": (lambda x: x.amax(-1), {"amax"}),
    "largest of tokens": (lambda x: x.amax(1, keepdim=True), {"amax"}),
    "largest of one": (lambda x: x[:, :1].amax(1), {"amax"}),
    "smallest": (lambda x: x.amin(1), {"amin", "amax"}),
    "layer norm": (lambda x: F.layer_norm(x, [4], WEIGHT, WEIGHT + 1, 1e-3), {"layer_norm"}),
    "layer norm without weights": (lambda x: F.layer_norm(x, [4]), {"layer_norm"}),
    "layer norm over a map": (lambda x: F.layer_norm(x, [5, 4]), set()),
    "reciprocal": (lambda x: torch.reciprocal(x + 300), {"reciprocal"}),
    "hard sigmoid": (lambda x: F.hardsigmoid(3 * x), {"hardsigmoid"}),
    "average that counts its padding": (lambda x: F.avg_pool2d(x, 3, 2, 1), set()),
    "average that does not": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), set()),
    "maximum without a stride": (lambda x: F.max_pool2d(x, 2), set()),
    "ReLU as a clamp": (lambda x: x.clamp(0), {"clamp"}),
    "ReLU6 as a clamp": (lambda x: x.clamp(0, 6), {"clamp"}),
    "clamp of one end": (lambda x: x.clamp(None, 2), set()),
    "softmax over channels": (lambda x: x.softmax(1), set()),
    "a weight that is computed": (lambda x: F.linear(x, (WEIGHT * 2 + 1).reshape(1, 4)), {"reciprocal"}),
}  # fmt: skip


class Network(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images.float() / 64 - 2)


def calls(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target).split(".")[1] for node in program.graph.nodes if str(node.target).startswith("aten.")]


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_said_otherwise_and_computes_the_same(name: str) -> None:
    function, gone = CASES[name]
    images = torch.randint(0, 256, (2, 6, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Network(function).eval(), (images,), strict=False)
    found = as_xnnpack_takes_it(program)
    expected, ours = program.module()(images), found.module()(images)
    assert ours.shape == expected.shape and ours.dtype == expected.dtype
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert not gone & set(calls(found)), calls(found)


class Weights(nn.Module):
    """A product whose weight is made of constants, as an exporter leaves it, and constants that are used for nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight * self.gain
        return F.linear(images.float(), weight - weight.mean(1, keepdim=True))


def test_what_no_image_changes_is_computed_once() -> None:
    images = torch.randint(0, 256, (1, 4, 4), dtype=torch.uint8)
    program = torch.export.export(Weights().eval(), (images,), strict=False)
    found = as_xnnpack_takes_it(program)
    torch.testing.assert_close(found.module()(images), program.module()(images))
    assert calls(found) == ["_assert_tensor_metadata", "to", "linear"] or calls(found) == ["to", "linear"]
    assert [tuple(value.shape) for value in found.state_dict.values()] == [(3, 4)], "what it was made of is gone"


def test_constants_that_stand_for_sums_can_be_told_apart() -> None:
    images = torch.zeros(1, 4, 4, dtype=torch.uint8)
    found = as_xnnpack_takes_it(torch.export.export(Network(lambda x: x.sum(-1)).eval(), (images,), strict=False))
    (constant,) = found.state_dict
    assert OURS in constant


class Shared(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        quantized = torch.ops.quantized_decomposed.quantize_per_tensor(images.float(), 1.0, 0, -128, 127, torch.int8)
        x = torch.ops.quantized_decomposed.dequantize_per_tensor(quantized, 1.0, 0, -128, 127, torch.int8)
        return x.relu() + x


def test_each_user_of_a_dequantized_tensor_has_its_own() -> None:
    images = torch.randint(0, 256, (1, 4), dtype=torch.uint8)
    program = torch.export.export(Shared(), (images,), strict=False)
    found = as_xnnpack_takes_it(program)
    dequantize = [node for node in found.graph.nodes if "dequantize" in str(node.target)]
    assert len(dequantize) == 2 and all(len(node.users) == 1 for node in dequantize)
    torch.testing.assert_close(found.module()(images), program.module()(images))
