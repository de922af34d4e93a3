"""Matrix products: those with a constant matrix are PyTorch's linear layers, with their bias, which engines look for."""

import torch
import torch.nn.functional as F
from torch import Tensor

from export.program.node import Node
from export.program.values import Value, Weight


def product(node: Node, bias: Value | None = None) -> Tensor:
    """MatMul, and the sum with a bias behind it; of a constant matrix (in, out) a linear layer."""
    weight = node.value(1)
    if isinstance(weight, Weight) and len(weight.shape) == 2:
        return F.linear(node.tensor(0), node.as_tensor(weight.transposed()), _bias(node, bias))
    found = torch.matmul(node.tensor(0), node.tensor(1))
    return found if bias is None else found + node.as_tensor(bias)


def gemm(node: Node) -> Tensor:
    """Gemm: α·A·B + β·C, either matrix the other way round."""
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    weight, bias = node.value(1), node.inputs[2] if node.has(2) else None
    x = node.tensor(0).t() if node.attribute("transA", 0) else node.tensor(0)
    if isinstance(weight, Weight) and alpha == beta == 1 and _is_row(bias):
        rows = weight if node.attribute("transB", 0) else weight.transposed()
        return F.linear(x, node.as_tensor(rows), _bias(node, bias))
    matrix = node.tensor(1).t() if node.attribute("transB", 0) else node.tensor(1)
    found = alpha * (x @ matrix)
    return found if bias is None else found + beta * node.as_tensor(bias)


def is_bias(value: Value | None) -> bool:
    """Whether a sum with this constant is a bias: one number for each output."""
    return isinstance(value, Weight) and value.value.dtype.kind == "f" and _is_row(value)


def _is_row(value: Value | None) -> bool:
    return value is None or (
        isinstance(value, Weight) and value.value.size == value.shape[-1:][0] if value.shape else False
    )


def _bias(node: Node, bias: Value | None) -> Tensor | None:
    if not isinstance(bias, Weight):
        return None if bias is None else node.as_tensor(bias)
    return node.as_tensor(Weight(f"{bias.name}_row", bias.value.reshape(-1)))
