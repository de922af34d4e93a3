"""Read a graph's nodes as layers, and count what precision the weight layers compute in."""

from collections import Counter

import onnx
from onnx import TensorProto

from calib.policy import WEIGHT_OPERATORS, Layer
from export.onnx_export import CLASS_KEY, MODULE_KEY, node_metadata


def read_layers(proto: onnx.ModelProto) -> list[Layer]:
    """Every node of the graph, in order."""
    shapes = {initializer.name: tuple(initializer.dims) for initializer in proto.graph.initializer}
    ranks = _ranks(proto)
    return [
        Layer(
            name=node.name,
            operator=node.op_type,
            module=node_metadata(node, MODULE_KEY).removeprefix("model."),
            classes=tuple(node_metadata(node, CLASS_KEY).split()),
            weight_shape=next((shapes[name] for name in node.input[:2] if name in shapes), ()),
            one_row=node.op_type in ("Gemm", "MatMul") and ranks.get(node.output[0]) == 2,
        )
        for node in proto.graph.node
    ]


def _ranks(proto: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    return {info.name: len(info.type.tensor_type.shape.dim) for info in (*graph.value_info, *graph.output)}


def count_precisions(proto: onnx.ModelProto) -> dict[str, int]:
    """Conv, Gemm and MatMul nodes by what they compute in: int8 where both operands come from DequantizeLinear."""
    types = tensor_types(proto)
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    counts = Counter({"int8": 0, "fp16": 0, "fp32": 0})
    for node in proto.graph.node:
        if node.op_type in WEIGHT_OPERATORS:
            if all(name in dequantized for name in node.input[:2]):
                counts["int8"] += 1
            else:
                counts["fp16" if types[node.output[0]] == TensorProto.FLOAT16 else "fp32"] += 1
    return dict(counts)


def tensor_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of the graph, by ONNX shape inference."""
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    graph = inferred.graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    return types | {initializer.name: initializer.data_type for initializer in graph.initializer}
