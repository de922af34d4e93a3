"""INT8 products for GPUs: integer products compute what a linear layer between Q/DQ does; no GPU is needed for that."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers the operators)

from export.engines.pytorch.integer_products import write_integer_products
from export.engines.pytorch.layers import count_products, count_quantized

OPERATORS = torch.ops.quantized_decomposed


class Quantized(nn.Module):
    """A linear layer between Q/DQ, in `low`."""

    def __init__(self, activations: torch.dtype, zero: int, bias: bool, low: torch.dtype, inputs: int = 32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randint(-127, 128, (16, inputs), generator=generator, dtype=torch.int8))
        self.register_buffer("scale", torch.rand(16, generator=generator) / 100)
        self.register_buffer("zeros", torch.zeros(16, dtype=torch.int64))
        self.bias = nn.Parameter(torch.randn(16, generator=generator)) if bias else None
        self.kind, self.zero, self.low = torch.iinfo(activations), zero, low

    def forward(self, x: Tensor) -> Tensor:
        grid = (0.02, self.zero, self.kind.min, self.kind.max, getattr(torch, self.kind.dtype))
        x = OPERATORS.dequantize_per_tensor(OPERATORS.quantize_per_tensor(x, *grid), *grid)
        weight = OPERATORS.dequantize_per_channel(self.weight, self.scale, self.zeros, 0, -128, 127, torch.int8)
        bias = None if self.bias is None else self.bias.to(self.low)
        return F.linear(x.to(self.low), weight.to(self.low), bias).float()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("activations", "zero"), [(torch.uint8, 128), (torch.uint8, 0), (torch.int8, 0), (torch.int8, -5)]
)
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("free", [False, True])
def test_it_computes_the_layer(activations: torch.dtype, zero: int, bias: bool, low: torch.dtype, free: bool) -> None:
    module, x = Quantized(activations, zero, bias, low).eval(), torch.randn(2, 20, 32)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if free else None
    with torch.no_grad():
        program = torch.export.export(module, (x,), dynamic_shapes=shapes, strict=False)
        expected = program.module()(x)
        assert count_quantized(program.graph) == 1
        assert write_integer_products(program) == 1
        found = program.module()(x)
    assert found.shape == expected.shape
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < (1e-5 if low == torch.float32 else 2e-2), (
        f"BF16 rounds what goes into the layer, integers do not: {error}"
    )


@pytest.mark.parametrize(("shape", "inputs"), [((2, 16, 32), 32), ((40, 32), 32), ((2, 20, 36), 36)])
def test_what_cuda_s_integer_product_cannot_take_stays(shape: tuple[int, ...], inputs: int) -> None:
    module = Quantized(torch.uint8, 128, True, torch.float32, inputs).eval()
    program = torch.export.export(module, (torch.randn(shape),), strict=False)
    assert write_integer_products(program) == 0
    assert count_products(program.graph) == {"int8": 0, "fp16": 0, "fp32": 1}


def test_other_products_stay() -> None:
    program = torch.export.export(nn.Linear(8, 8).eval(), (torch.randn(2, 20, 8),), strict=False)
    assert write_integer_products(program) == 0 == count_quantized(program.graph)
    np.testing.assert_equal(count_products(program.graph), {"int8": 0, "fp16": 0, "fp32": 1})
