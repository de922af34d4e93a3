"""An ONNX graph as a program of PyTorch: walked node by node, traced by `torch.export`.

Equal to the graph node for node, so that one place, the graph, holds all decisions: precisions, ranges, forms and folded
weights. A product with a constant matrix and the bias behind it become one linear layer, as PyTorch has it.

A graph in FP32 can be read in BF16: every node computes in it, but for what the graph's own list keeps in FP32 (`FP32_TENSORS`)
and the borders of Q/DQ, which PT2E has in FP32.
"""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from calib.errors import InputError
from export.program.node import Constants, Node
from export.program.operators import RULES
from export.program.products import is_bias, product
from export.program.shapes import on_host
from export.program.values import Value, Weight
from export.runner import FP32_TENSORS

# Images that a program with a free batch is traced with: torch.export takes 0 and 1 for numbers of their own.
FREE_BATCH = 2


class GraphNetwork(nn.Module):
    """Computes an ONNX graph of one input: images uint8 (batch, H, W, C) → its outputs, a tensor where there is one."""

    def __init__(self, proto: onnx.ModelProto, low: torch.dtype | None = None):
        """`low` is the type that an FP32 graph is computed in where it does not list that as FP32, None for the graph's own.

        InputError for an operator that `export.program.operators.RULES` does not have.
        """
        super().__init__()
        _check(proto)
        self._low, self._in_fp32 = low, _listed_in_fp32(proto) if low is not None else frozenset[str]()
        self.constants = Constants()
        self._input = proto.graph.input[0].name
        self._outputs = [value.name for value in proto.graph.output]
        self._stored = {value.name: _stored(value.name, value) for value in proto.graph.initializer}
        self._stored |= {
            node.output[0]: _stored(node.output[0], node.attribute[0].t)
            for node in proto.graph.node if node.op_type == "Constant"
        }  # fmt: skip
        uses = Counter(name for node in proto.graph.node for name in node.input) + Counter(self._outputs)
        nodes = [node for node in proto.graph.node if node.op_type != "Constant"]
        self._nodes = _with_biases(nodes, uses, self._stored)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        values: dict[str, Value] = {**self._stored, self._input: images}
        for proto, bias in self._nodes:
            inputs = tuple(values[name] if name else None for name in proto.input)
            node = Node(proto, inputs, self.constants, self._computes(proto, bias))
            found = self._compute(node, None if bias is None else values[bias.constant])
            outputs = found if isinstance(found, list | tuple) else [found]
            names = [bias.output] if bias is not None else list(proto.output)
            values |= {name: value for name, value in zip(names, outputs, strict=False) if name}
        given = tuple(_computed(values[name]) for name in self._outputs)
        if self._low is not None:
            given = tuple(value.float() for value in given)
        return given[0] if len(given) == 1 else given

    def _computes(self, proto: onnx.NodeProto, bias: "_Bias | None") -> torch.dtype | None:
        """The type that a node takes its floating-point inputs in, None for the one that they have."""
        if self._low is None or proto.op_type == "DequantizeLinear":
            return None
        given = [*proto.output, *([bias.output] if bias is not None else [])]
        fp32 = proto.op_type == "QuantizeLinear" or not self._in_fp32.isdisjoint(given)
        return torch.float32 if fp32 else self._low

    def _compute(self, node: Node, bias: Value | None) -> Value | Sequence[Value]:
        if bias is not None:
            return product(node, bias)
        on = on_host(node)
        return RULES[node.proto.op_type](node) if on is None else on


@dataclass(frozen=True)
class _Bias:
    """A sum with a bias that goes into the product before it."""

    constant: str
    output: str


def _check(proto: onnx.ModelProto) -> None:
    known = {*RULES, "Shape", "Constant", "ConstantOfShape", "Range"}
    if unknown := sorted({node.op_type for node in proto.graph.node} - known):
        raise InputError(
            "PyTorch's form of this graph is not known", got=f"operators {', '.join(unknown)}",
            allowed=", ".join(sorted(known)), next_step="leave this backend out of the recipe's build",
        )  # fmt: skip


def _listed_in_fp32(proto: onnx.ModelProto) -> frozenset[str]:
    """The tensors that a graph wants in FP32 where it is computed in BF16. InputError where it does not say."""
    listed = {entry.key: entry.value for entry in proto.metadata_props}
    if FP32_TENSORS not in listed:
        raise InputError(
            "this graph does not list what stays in FP32 where an engine computes in BF16", got="no such metadata",
            allowed="a graph of the quantize stage", next_step="t2t-edge quantize --recipe RECIPE",
        )  # fmt: skip
    return frozenset(json.loads(listed[FP32_TENSORS]))


def _computed(value: Value) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def read_module(proto: onnx.ModelProto) -> GraphNetwork:
    """The graph as a network that computes at once, in eval mode. InputError for an operator that is not known."""
    module = GraphNetwork(proto).eval()
    with torch.no_grad():
        module(_example(proto, FREE_BATCH))  # its constants become buffers
    return module


def read_program(
    proto: onnx.ModelProto, batch: int | None = None, low: torch.dtype | None = None
) -> torch.export.ExportedProgram:
    """The graph as an exported program for `batch` images, None for any number: uint8 (batch, H, W, C) → its outputs.

    `low`: torch.bfloat16 for an FP32 graph, with or without Q/DQ, that is to compute in it; its outputs are FP32 all the same.
    InputError for an operator that is not known, and with `low` where the graph does not list what stays in FP32.
    """
    fixed = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or batch
    module = GraphNetwork(proto, low).eval()
    example = _example(proto, fixed or FREE_BATCH)
    shapes = None if fixed else ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own deprecations
        module(example)
        return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)


def _example(proto: onnx.ModelProto, batch: int) -> Tensor:
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    return torch.zeros([shape[0] or batch, *shape[1:]], dtype=torch.uint8)


def _stored(name: str, value: onnx.TensorProto) -> Value:
    """Whole numbers of 64 bits are shapes and indices; all else is what the network computes with."""
    array = numpy_helper.to_array(value)
    if array.dtype in (np.int64, np.bool_):
        return np.array(array)
    if value.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        array = array.astype(np.int8)
    return Weight(name, np.array(array))


def _with_biases(
    nodes: Sequence[onnx.NodeProto], uses: Counter[str], stored: dict[str, Value]
) -> list[tuple[onnx.NodeProto, _Bias | None]]:
    """The nodes in order; a sum with a bias goes into the product before it where nothing else reads that."""
    constant = {name for name, value in stored.items() if is_bias(value)}
    products = {
        node.output[0]: node for node in nodes if node.op_type == "MatMul" and uses[node.output[0]] == 1
    }  # fmt: skip
    biases: dict[str, _Bias] = {}
    for node in nodes:
        if node.op_type != "Add":
            continue
        for own, other in ((0, 1), (1, 0)):
            if node.input[own] in products and node.input[other] in constant:
                biases[node.input[own]] = _Bias(node.input[other], node.output[0])
    merged = {bias.output for bias in biases.values()}
    return [(node, biases.get(node.output[0])) for node in nodes if node.output[0] not in merged]
