"""Read a graph's nodes as layers, and count what precision the weight layers compute in."""

import math
from collections import Counter

import onnx
from onnx import TensorProto

from calib.precision.policy import WEIGHT_OPERATORS, Layer
from export.graph.roles import Found, find_roles, token_makers
from export.onnx_export import CLASS_KEY, MODULE_KEY, node_metadata


def read_layers(proto: onnx.ModelProto) -> list[Layer]:
    """Every node of the graph, in order."""
    weights = {initializer.name: tuple(initializer.dims) for initializer in proto.graph.initializer}
    shapes = tensor_shapes(proto)
    of_an_image = one_image_shapes(proto)
    roles, to_tokens = find_roles(proto, shapes), token_makers(proto, shapes)
    layers = []
    for node in proto.graph.node:
        constant = next((index for index, name in enumerate(node.input[:2]) if name in weights), None)
        role = roles.get(node.name, Found(""))
        layers.append(Layer(
            name=node.name,
            operator=node.op_type,
            module=node_metadata(node, MODULE_KEY).removeprefix("model."),
            classes=tuple(node_metadata(node, CLASS_KEY).split()),
            weight_shape=() if constant is None else weights[node.input[constant]],
            one_row=node.op_type in ("Gemm", "MatMul") and _is_one_row(of_an_image.get(node.output[0], ())),
            weight_input=1 if constant is None else constant,
            role=role.role, skip=role.skip, head_dim=role.head_dim, tokens=role.tokens, branches=role.branches,
            to_tokens=node.name in to_tokens,
        ))  # fmt: skip
    return layers


def _is_one_row(shape: tuple[int, ...]) -> bool:
    """Whether a product with this output multiplies one row for an image; where the sizes are unknown, what a matrix is."""
    return math.prod(shape[:-1]) == 1 if shape and all(shape[:-1]) else len(shape) == 2


def one_image_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors where one image is computed; 0 where a size is free even then.

    Unlike those of a free batch they tell (images · tokens, C) from (images, C). Of a graph with a fixed batch they are its
    tensors' as they are, apart from a first axis of the size of the batch, which is 1 here.
    """
    graph = proto.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    if batch.HasField("dim_value"):
        images = batch.dim_value
        return {
            name: (1, *shape[1:]) if shape[:1] == (images,) else shape for name, shape in tensor_shapes(proto).items()
        }
    alone = onnx.ModelProto()
    alone.CopyFrom(proto)
    alone.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del alone.graph.value_info[:]  # written for a free batch
    for output in alone.graph.output:
        output.type.tensor_type.ClearField("shape")
    return tensor_shapes(alone)


def tensor_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors, 0 where a size is free."""
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    return {
        info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in (*graph.value_info, *graph.output)
    }


def count_precisions(proto: onnx.ModelProto) -> dict[str, int]:
    """Conv, Gemm and MatMul nodes by what they compute in: int8 or fp8 where both operands come from DequantizeLinear."""
    types = tensor_types(proto)
    dequantized = {
        node.output[0]: types[node.input[0]] for node in proto.graph.node if node.op_type == "DequantizeLinear"
    }
    counts = Counter({"int8": 0, "fp16": 0, "fp32": 0})
    for node in proto.graph.node:
        if node.op_type in WEIGHT_OPERATORS:
            if all(name in dequantized for name in node.input[:2]):
                counts["fp8" if dequantized[node.input[0]] == TensorProto.FLOAT8E4M3FN else "int8"] += 1
            else:
                counts["fp16" if types[node.output[0]] == TensorProto.FLOAT16 else "fp32"] += 1
    return dict(counts)


def tensor_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of the graph, by ONNX shape inference."""
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    graph = inferred.graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    return types | {initializer.name: initializer.data_type for initializer in graph.initializer}
