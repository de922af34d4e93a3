"""Which attentions an engine must fuse, read from the graph, and that TensorRT-RTX fuses exactly those at batch 1."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from engine_graphs import broken_promises, count_attentions, count_fusable
from onnx import TensorProto, helper, numpy_helper

from export.engines.tensorrt import rtx_backend as tensorrt_rtx_backend
from export.forms.single_head import halve_single_heads

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None or find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (it exists for x86 Linux only)",
)
CHANNELS = 64


@dataclass(frozen=True)
class Geometry:
    """Of one attention; `heads` 0 is a graph without an axis for them."""

    heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int


BLOCK = Geometry(4, 64, 64, 32, 32)
MUST_FUSE = {
    "a transformer's block": BLOCK,
    "pixels ask 32 tokens, with heads": replace(BLOCK, queries=784, keys=32),
    "8 tokens ask pixels, with heads": replace(BLOCK, queries=8, keys=784),
    "32 tokens, with heads": replace(BLOCK, queries=32, keys=32),
    "the widest heads": Geometry(2, 64, 64, 256, 256),
    "the narrowest heads": Geometry(2, 64, 64, 9, 9),
    "one head, halved": Geometry(1, 64, 64, 64, 64),
}
NEED_NOT = {
    "VT-FPN's transformer: 32 tokens of 1024": Geometry(0, 32, 32, 256, 1024),
    "VT-FPN's projector: pixels ask 32 tokens": Geometry(0, 784, 32, 256, 256),
    "vt_fpn_mini's": Geometry(0, 144, 32, 64, 64),
    "8 tokens ask pixels": Geometry(0, 8, 784, 256, 256),
    "no axis of heads": Geometry(0, 64, 64, 32, 32),
    "heads too wide": Geometry(2, 64, 64, 257, 257),
    "heads too narrow": Geometry(2, 64, 64, 8, 8),
    "values wider than keys": Geometry(2, 64, 64, 64, 128),
    "values narrower than keys": Geometry(2, 64, 64, 64, 32),
}
ALL = [
    pytest.param(of, fuses, id=name)
    for fuses, kinds in ((1, MUST_FUSE), (0, NEED_NOT))
    for name, of in kinds.items()
]  # fmt: skip


def attention_graph(of: Geometry) -> onnx.ModelProto:
    """FP16: who asks (B, queries, 64) and who is asked (B, keys, 64) → the attention, projected, (B, queries, 64)."""
    random, graph = np.random.default_rng(0), _Graph()
    heads = max(1, of.heads)
    query = graph.heads("asks", of.queries, of, of.head_dim, random)
    key = graph.heads("asked", of.keys, of, of.head_dim, random)
    value = graph.heads("asked", of.keys, of, of.value_dim, random)
    turned = graph.node("Transpose", key, perm=[0, 1, 3, 2] if of.heads else [0, 2, 1])
    scaled = graph.node("Mul", query, graph.constant(np.asarray(of.head_dim**-0.5, np.float16)))
    shares = graph.node("Softmax", graph.node("MatMul", scaled, turned), axis=-1)
    result = graph.node("MatMul", shares, value)
    if of.heads:
        result = graph.node("Transpose", result, perm=[0, 2, 1, 3])
        result = graph.node("Reshape", result, graph.constant(np.array([-1, of.queries, heads * of.value_dim])))
    result = graph.product(result, heads * of.value_dim, CHANNELS, random)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["B", tokens, CHANNELS])
        for name, tokens in (("asks", of.queries), ("asked", of.keys), (result, of.queries))
    ]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "attention", ends[:2], ends[2:], graph.constants),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    onnx.checker.check_model(proto, full_check=True)
    return proto


class _Graph:
    """Nodes and constants as they are written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"node_{len(self.nodes):05}"
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def constant(self, values: np.ndarray[Any, Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def product(self, x: str, rows: int, columns: int, random: np.random.Generator) -> str:
        weight = random.standard_normal((rows, columns)) * rows**-0.5
        return self.node("MatMul", x, self.constant(weight.astype(np.float16)))

    def heads(self, x: str, tokens: int, of: Geometry, width: int, random: np.random.Generator) -> str:
        """(B, T, 64) → (B, heads, T, width), or (B, T, width) without heads."""
        y = self.product(x, CHANNELS, max(1, of.heads) * width, random)
        if not of.heads:
            return y
        shape = self.constant(np.array([-1, tokens, of.heads, width]))
        return self.node("Transpose", self.node("Reshape", y, shape), perm=[0, 2, 1, 3])


@pytest.mark.parametrize(("of", "fuses"), ALL)
def test_what_must_fuse_is_read_from_the_graph(of: Geometry, fuses: int) -> None:
    """Heads and widths tell, not how many ask how many."""
    proto = attention_graph(of)
    assert (count_attentions(proto), count_fusable(proto)) == (1, fuses)


@needs_rtx
@pytest.mark.parametrize(("of", "fuses"), ALL)
def test_the_builder_fuses_at_batch_1_what_must_fuse_and_nothing_else(tmp_path: Path, of: Geometry, fuses: int) -> None:
    proto = attention_graph(of)
    halve_single_heads(proto)
    onnx.save(proto, tmp_path / "attention.onnx")
    engine = tensorrt_rtx_backend.build(
        tmp_path / "attention.onnx", tmp_path / "attention.plan", batch_sizes=(1, 1, 1), target="sm86"
    )
    assert engine.notes["graph"].attentions == ({"fp16": 1} if fuses else {})


@pytest.mark.parametrize(
    ("row", "precision", "said"),
    [
        ({"attentions": {}, "attentions_fusable": 0}, "fp16", []),
        ({"attentions": {"fp16": 1}, "attentions_fusable": 0}, "fp16", []),
        ({"attentions": {"fp16": 1}, "attentions_fusable": 2}, "fp16", ["1 of 2 attentions fused"]),
        ({"products": {"int8": 4}, "products_in_graph": {"int8": 5}}, "int8", ["4 of 5 products in int8"]),
        ({"products": {"int8": 5}, "products_in_graph": {"int8": 5}}, "int8+attention", []),
        ({"products": {"fp8": 5}, "products_in_graph": {"fp8": 6}}, "fp8", []),
        ({"products": {"fp16": 5}, "products_in_graph": {"fp8": 6}}, "fp8", ["no product in fp8"]),
        ({"products": {"fp16": 5}, "products_in_graph": {"fp16": 6}}, "fp16", []),
    ],
)
def test_promises_are_of_what_the_graph_asks_for(row: dict[str, Any], precision: str, said: list[str]) -> None:
    """An engine may fuse more than it must, and compute some of FP8's and FP16's products wider."""
    whole = {"products": {"fp16": 1}, "attentions": {}, "attentions_fusable": 0, "islands": []} | row
    assert broken_promises(whole, precision) == said
