"""A program in the operators that XNNPACK takes: the same numbers, said so that nothing heavy is left to portable kernels.

XNNPACK multiplies and slides windows, and its partitioner takes operators by name: no matmul of four dimensions, no sum over
channels, no split. Left to ExecuTorch's portable kernels they would be slow, and cut the program into many parts.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers the operators)

from export.program.node import Constants

OURS = "form_"  # begins the name of each constant that is written here, and of nothing else
_aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_DEQUANTIZE_WEIGHT = torch.ops.quantized_decomposed.dequantize_per_channel.default
_PRODUCTS = (_aten.linear.default, _aten.conv1d.default, _aten.conv2d.default)


def as_xnnpack_takes_it(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program written anew by `RULES`, for the same images; each dequantized tensor has one user."""
    (example,), _ = program.example_inputs
    module = _Module(program)
    with torch.no_grad():
        module.compute(example)
        written = torch.export.export(module, (example,), strict=False)
    _dequantize_for_each(written.graph)
    written.graph_module.recompile()
    return written


class _Module(nn.Module):
    def __init__(self, program: torch.export.ExportedProgram):
        super().__init__()
        self.inner: fx.GraphModule = program.module(check_guards=False)
        self.constants = Constants()
        self.fixed = _without_images(self.inner.graph)
        self.computed = False

    def forward(self, images: Tensor) -> Any:
        return _Writer(self).run(images)

    def compute(self, example: Tensor) -> None:
        """Compute for the first time, which makes constants of what no image changes, and drop what those were made of."""
        self(example)
        self.computed = True
        reads = [node for node in self.inner.graph.nodes if node.op == "get_attr"]
        kept = {node.target for node in reads if not self.fixed.issuperset(node.users)}
        for name in {node.target for node in reads} - kept:
            place, _, own = name.rpartition(".")
            delattr(self.inner.get_submodule(place), own)


class _Writer(fx.Interpreter):
    """Runs the program with other operators, which is what gets traced."""

    def __init__(self, of: _Module):
        super().__init__(of.inner)
        self._of, self._as_it_is = of, False

    def run_node(self, n: fx.Node) -> Any:
        """What no image changes is computed once, such as the weights of a soft split that was exported as it is written."""
        if n not in self._of.fixed:
            return super().run_node(n)
        used, name = not self._of.fixed.issuperset(n.users), f"{n.name}_computed"
        if self._of.computed and not used:
            return None
        if n.op == "get_attr":
            return super().run_node(n)
        if self._of.computed:
            return self._of.constants.get_buffer(name)
        self._as_it_is = True
        found = super().run_node(n)
        self._as_it_is = False
        return self._of.constants.of(name, found.numpy()) if used else found

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._as_it_is:
            return super().call_function(target, args, kwargs)
        if (with_constants := WITH_CONSTANTS.get(target)) is not None:
            return with_constants(self._of.constants, *args, **kwargs)
        rule = RULES.get(target)
        return super().call_function(target, args, kwargs) if rule is None else rule(*args, **kwargs)


def _without_images(graph: fx.Graph) -> set[fx.Node]:
    """The constants and tensors made of them alone; the weight of a product in INT8 stays quantized."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        made = node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
        if node.op == "get_attr" or (made and found.issuperset(node.all_input_nodes) and not _is_int8_weight(node)):
            found.add(node)
    return found


def _is_int8_weight(node: fx.Node) -> bool:
    """Whether this dequantizes the weight of products that XNNPACK computes in INT8, all of which take INT8 and give it.

    Where one does not, its weight is dequantized once and for all, and XNNPACK computes it in FP32.
    """
    return node.target is _DEQUANTIZE_WEIGHT and all(
        user.target in _PRODUCTS and _calls(user.all_input_nodes[0], _DEQUANTIZE) and _goes_to_int8(user)
        for user in node.users
    )


def _goes_to_int8(product: fx.Node) -> bool:
    """Whether it is quantized alone, behind the activation that its kernel computes as well."""
    after = list(product.users)
    if len(after) == 1 and _is_in_kernel(after[0]):
        after = list(after[0].users)
    return len(after) == 1 and _calls(after[0], _QUANTIZE)


def _is_in_kernel(node: fx.Node) -> bool:
    """A ReLU, and a clamp that becomes one or a hardtanh: see `_clamp`."""
    if node.target is not _aten.clamp.default:
        return node.target is _aten.relu.default
    low, high = (*node.args[1:], None, None)[:2]
    return low is not None and (high is not None or bool(low == 0))


def _calls(node: fx.Node, target: Any) -> bool:
    """Whether it is this operator, on int8."""
    return node.target is target and torch.int8 in node.args


def _full(constants: Constants, shape: Sequence[int], value: float) -> Tensor:
    name = f"{OURS}{value}_{'_'.join(map(str, shape))}"
    return constants.of(name, np.full(shape, value, dtype=np.float32))


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Of three dimensions, which XNNPACK has."""
    if a.ndim < 2 or b.ndim < 2:
        return torch.matmul(a, b)
    if b.ndim == 2:
        return torch.bmm(a.reshape(1, -1, a.shape[-1]), b[None]).reshape(*a.shape[:-1], b.shape[-1])
    if a.shape[:-2] != b.shape[:-2]:
        return torch.matmul(a, b)
    many = math.prod(a.shape[:-2])
    found = torch.bmm(a.reshape(many, *a.shape[-2:]), b.reshape(many, *b.shape[-2:]))
    return found.reshape(*a.shape[:-1], b.shape[-1])


def _expand(x: Tensor, sizes: Sequence[int], implicit: bool = False) -> Tensor:
    """Nothing, where it is as large already: a class token for one image."""
    same = len(sizes) == x.ndim and all(size in (-1, own) for own, size in zip(x.shape, sizes, strict=True))
    return x if same else x.expand(sizes)


def _split(x: Tensor, sizes: int | Sequence[int], dim: int = 0) -> list[Tensor]:
    """A slice for each part."""
    whole = x.shape[dim]
    parts = [min(sizes, whole - start) for start in range(0, whole, sizes)] if isinstance(sizes, int) else list(sizes)
    return [x.narrow(dim, sum(parts[:place]), part) for place, part in enumerate(parts)]


def _select(x: Tensor, dim: int, index: int) -> Tensor:
    dim %= x.ndim
    return x.narrow(dim, index % x.shape[dim], 1).reshape(*x.shape[:dim], *x.shape[dim + 1 :])


def _unsqueeze(x: Tensor, dim: int) -> Tensor:
    dim %= x.ndim + 1
    return x.reshape(*x.shape[:dim], 1, *x.shape[dim:])


def _squeeze(x: Tensor, dims: int | Sequence[int]) -> Tensor:
    axes = {axis % x.ndim for axis in ([dims] if isinstance(dims, int) else dims)}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in axes or size != 1])


def _sum(
    constants: Constants, x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """A product with ones."""
    block = _block(x, dims)
    if block is None or dtype is not None:
        return _aten.sum.dim_IntList(x, dims, keepdim, dtype=dtype)
    return _with_weight(constants, x, *block, 1.0).reshape(_reduced(x, *block, keepdim))


def _mean(
    constants: Constants, x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """A product with one over their number; over the sides of a map XNNPACK's own pooling."""
    block = _block(x, dims)
    if block is None or dtype is not None:
        return _aten.mean.dim(x, dims, keepdim, dtype=dtype)
    if x.ndim == 4 and block == (2, 3):
        return x.mean((2, 3), keepdim=True).reshape(_reduced(x, 2, 3, keepdim))
    count = math.prod(x.shape[block[0] : block[1] + 1])
    return _with_weight(constants, x, *block, 1.0 / count).reshape(_reduced(x, *block, keepdim))


def _with_weight(constants: Constants, x: Tensor, first: int, last: int, weight: float) -> Tensor:
    """The sum over axes side by side, times a number: a convolution over channels, a linear layer over the last axes."""
    before, after = math.prod(x.shape[:first]), math.prod(x.shape[last + 1 :])
    count = math.prod(x.shape[first : last + 1])
    if x.ndim == 4 and first == last == 1:
        return F.conv2d(x, _full(constants, (1, count, 1, 1), weight))
    if after == 1:
        return F.linear(x.reshape(before, count), _full(constants, (1, count), weight))
    return torch.bmm(_full(constants, (before, 1, count), weight), x.reshape(before, count, after))


def _layer_norm(
    constants: Constants, x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn: bool = True,
) -> Tensor:  # fmt: skip
    """Its steps one by one: as fast as ExecuTorch's kernel on one thread, and the program is not cut in two at each."""
    if len(shape) != 1:
        return F.layer_norm(x, shape, weight, bias, eps)
    mean = _full(constants, (1, shape[0]), 1.0 / shape[0])
    centred = x - F.linear(x, mean)
    variance = F.linear(centred * centred, mean)
    found = centred * torch.rsqrt(variance + _full(constants, (1,), eps))
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _hard_sigmoid(constants: Constants, x: Tensor) -> Tensor:
    """PyTorch's own steps have whole numbers in them, which are cast for each image."""
    return F.hardtanh(x + _full(constants, (1,), 3.0), 0.0, 6.0) * _full(constants, (1,), 1 / 6)


WITH_CONSTANTS: dict[Any, Callable[..., Tensor]] = {
    _aten.sum.dim_IntList: _sum,
    _aten.mean.dim: _mean,
    _aten.layer_norm.default: _layer_norm,
    _aten.hardsigmoid.default: _hard_sigmoid,
    _aten.reciprocal.default: lambda constants, x: torch.div(_full(constants, (1,), 1.0), x),
}


def _amax(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """A pooling with a window of all of them."""
    block = _block(x, dims)
    if block is None:
        return x.amax(tuple(dims), keepdim)
    first, last = block
    before, after = math.prod(x.shape[:first]), math.prod(x.shape[last + 1 :])
    count = math.prod(x.shape[first : last + 1])
    if count == 1:
        return x.reshape(_reduced(x, first, last, keepdim))
    if x.ndim == 4 and (first, last) == (2, 3):
        maps, window = x, (int(x.shape[2]), int(x.shape[3]))
    elif after == 1:
        maps, window = x.reshape(1, 1, before, count), (1, count)
    else:
        maps, window = x.reshape(before, count, after).permute(0, 2, 1).reshape(before, after, count, 1), (count, 1)
    return F.max_pool2d(maps, window, (1, 1)).reshape(_reduced(x, first, last, keepdim))


def _block(x: Tensor, dims: Sequence[int] | None) -> tuple[int, int] | None:
    """The first and the last of axes that lie side by side."""
    if not dims:
        return None
    axes = sorted(axis % x.ndim for axis in dims)
    return (axes[0], axes[-1]) if axes == list(range(axes[0], axes[-1] + 1)) else None


def _reduced(x: Tensor, first: int, last: int, keepdim: bool) -> list[int]:
    between = [1] * (last - first + 1) if keepdim else []
    return [*x.shape[:first], *between, *x.shape[last + 1 :]]


def _average_pool(
    x: Tensor, kernel: list[int], stride: list[int] | None = None, padding: list[int] | tuple[int, int] = (0, 0),
    ceil: bool = False, counts: bool = True, divisor: int | None = None,
) -> Tensor:  # fmt: skip
    """Padding that is counted stands in front."""
    if counts and any(padding):
        high, wide = (padding[0], padding[-1])
        x, padding = F.pad(x, [wide, wide, high, high]), (0, 0)
    return F.avg_pool2d(x, kernel, stride or kernel, padding, ceil, False, divisor)


def _max_pool(
    x: Tensor, kernel: list[int], stride: list[int] | None = None, padding: list[int] | tuple[int, int] = (0, 0),
    dilation: list[int] | tuple[int, int] = (1, 1), ceil: bool = False,
) -> Tensor:  # fmt: skip
    """With its stride said, which XNNPACK's partitioner reads."""
    return F.max_pool2d(x, kernel, stride or kernel, padding, dilation, ceil)


def _clamp(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """What goes into the kernel of the product before it."""
    if low == 0 and high is None:
        return F.relu(x)
    return torch.clamp(x, low, high) if low is None or high is None else F.hardtanh(x, low, high)


def _softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Over the last axis."""
    if dtype is not None or dim % x.ndim == x.ndim - 1:
        return torch.softmax(x, dim, dtype=dtype)
    return torch.softmax(x.transpose(dim, -1), -1).transpose(dim, -1)


RULES: dict[Any, Callable[..., Any]] = {
    _aten.matmul.default: _matmul,
    _aten.expand.default: _expand,
    _aten.split.Tensor: _split,
    _aten.split_with_sizes.default: _split,
    _aten.select.int: _select,
    _aten.unsqueeze.default: _unsqueeze,
    _aten.squeeze.dim: _squeeze,
    _aten.squeeze.dims: _squeeze,
    _aten.amax.default: _amax,
    _aten.amin.default: lambda x, dims=(), keepdim=False: -_amax(-x, dims, keepdim),
    _aten.avg_pool2d.default: _average_pool,
    _aten.max_pool2d.default: _max_pool,
    _aten.clamp.default: _clamp,
    _aten.softmax.int: _softmax,
    _aten._assert_tensor_metadata.default: lambda *args, **kwargs: None,
}


def _dequantize_for_each(graph: fx.Graph) -> None:
    """A DequantizeLinear of its own for each user: the partitioner takes one into the kernel that uses it."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is _DEQUANTIZE:
            for user in list(node.users)[1:]:
                with graph.inserting_before(user):
                    user.replace_input_with(node, graph.node_copy(node))
