"""Products of a graph of PyTorch by what they compute in: its operators, and those that Inductor puts in their place."""

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import Graph

# By the name of the operator without its overload. oneDNN's, MKL's and PyTorch's own.
_INT8 = ("onednn.qlinear_pointwise", "onednn.qconv_pointwise", "onednn.qconv2d_pointwise", "aten._int_mm")
_FLOAT = (
    "aten.linear", "aten.matmul", "aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten.einsum",
    "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution", "aten.conv_transpose2d",
    "mkldnn._linear_pointwise", "mkldnn._convolution_pointwise", "mkldnn._convolution_pointwise_",
    "mkldnn._convolution_transpose_pointwise", "mkl._mkl_linear",
)  # fmt: skip
_ATTENTION = "scaled_dot_product"  # in the name of an operator that is a whole attention
_KINDS = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}


_DEQUANTIZE = "quantized_decomposed.dequantize_per_"


def count_quantized(graph: "Graph") -> int:
    """Products of an exported program that both sides of are dequantized, which INT8 kernels could compute."""
    return sum(
        bool(_kind(node)) and len(node.args) > 1 and all(map(_is_dequantized, node.args[:2])) for node in graph.nodes
    )


def _is_dequantized(node: Any) -> bool:
    """Whether it is a DequantizeLinear's result, in whatever type."""
    while str(node.target) in ("aten.to.dtype", "prims.convert_element_type.default"):
        node = node.args[0]
    return str(node.target).startswith(_DEQUANTIZE)


def count_products(graph: "Graph") -> dict[str, int]:
    """How many compute in INT8, FP16 and FP32, and `bf16` where any does; an attention in one operator counts as one."""
    layers = Counter(int8=0, fp16=0, fp32=0)
    for node in graph.nodes:
        kind = _kind(node)
        if kind:
            layers[kind] += 1
    return dict(layers)


def _kind(node: Any) -> str:
    """`int8`, …; "" for what is no product."""
    if node.op != "call_function":
        return ""
    name = str(node.target).rpartition(".")[0]
    if name in _INT8:
        return "int8"
    if name not in _FLOAT and _ATTENTION not in name:
        return ""
    value = node.meta["val"]
    first = value[0] if isinstance(value, list | tuple) else value
    return _KINDS.get(str(first.dtype), "fp32")
