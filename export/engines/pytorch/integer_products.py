"""INT8 products on a GPU: Inductor has patterns for Q/DQ on CPUs alone, so they are written as integer products, which it knows.

(q − zero)·wᵀ with scales and the bias behind it; q goes to int8 first where it is uint8, which moves the zero point by 128.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.fx import Graph, Node

_MIDDLE = 128
# What CUDA's integer product asks of rows, and of both sides of a weight.
_LEAST_ROWS, _MULTIPLE = 17, 8


def write_integer_products(program: "torch.export.ExportedProgram") -> int:
    """Rewrite, in place, linear layers between dequantized activations and weights; returns how many."""
    import torch

    layers = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
    done = sum(_rewrite(program.graph, node) for node in layers)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return done


def _rewrite(graph: "Graph", node: "Node") -> bool:
    import torch

    aten, operators = torch.ops.aten, torch.ops.quantized_decomposed
    x, weight = (_before_casts(value) for value in node.args[:2])
    if x.target is not operators.dequantize_per_tensor.default:
        return False
    if weight.target is not operators.dequantize_per_channel.default:
        return False
    source, scale, zero, *_ = x.args
    integers, scales, _, axis, *_ = weight.args
    shape, (outputs, inputs) = source.meta["val"].shape, integers.meta["val"].shape
    if axis != 0 or len(shape) < 3 or shape[-2] < _LEAST_ROWS or outputs % _MULTIPLE or inputs % _MULTIPLE:
        return False

    def call(target: Any, *args: Any) -> "Node":
        return graph.call_function(target, args)

    with graph.inserting_before(node):
        if source.meta["val"].dtype == torch.uint8:
            wide = call(aten.sub.Tensor, call(aten.to.dtype, source, torch.int16), _MIDDLE)
            source, zero = call(aten.to.dtype, wide, torch.int8), zero - _MIDDLE
        rows = call(aten.reshape.default, source, [-1, inputs])
        product = call(aten._int_mm.default, rows, call(aten.permute.default, integers, [1, 0]))
        result = call(aten.to.dtype, product, torch.float32)
        if zero:
            sums = call(aten.sum.dim_IntList, call(aten.to.dtype, integers, torch.float32), [1])
            result = call(aten.sub.Tensor, result, call(aten.mul.Tensor, sums, zero))
        factors = call(aten.mul.Tensor, call(aten.to.dtype, scales, torch.float32), scale)
        result = call(aten.mul.Tensor, result, factors)
        if len(node.args) > 2 and node.args[2] is not None:
            result = call(aten.add.Tensor, result, call(aten.to.dtype, node.args[2], torch.float32))
        result = call(aten.to.dtype, result, node.meta["val"].dtype)
        result = call(aten.reshape.default, result, [-1, *shape[1:-1], outputs])
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    return True


def _before_casts(node: Any) -> Any:
    """What is cast on the way to a product."""
    while str(node.target) == "aten.to.dtype":
        node = node.args[0]
    return node
