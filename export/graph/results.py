"""Where the result of a product is: behind the bias and the ReLU that engines compute in the same kernel."""

from collections.abc import Mapping

import onnx

_ACTIVATIONS = ("Relu", "Clip")

Users = Mapping[str, list[onnx.NodeProto]]


def read_users(proto: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that take each tensor, by its name; a node that takes one twice is there twice."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def result_of(node: onnx.NodeProto, users: Users, vectors: frozenset[str]) -> str:
    """The tensor behind a node's bias (one of the constants `vectors`) and its ReLU, where nothing else takes what is between."""
    tensor = node.output[0]
    after = users.get(tensor, [])
    if node.op_type == "MatMul" and len(after) == 1 and after[0].op_type == "Add" and vectors & set(after[0].input):
        tensor = after[0].output[0]
        after = users.get(tensor, [])
    if len(after) == 1 and after[0].op_type in _ACTIVATIONS and after[0].input[0] == tensor:
        return str(after[0].output[0])
    return str(tensor)


def read_vectors(proto: onnx.ModelProto) -> frozenset[str]:
    """The names of the one-dimensional constants: what can be a bias."""
    return frozenset(value.name for value in proto.graph.initializer if len(value.dims) == 1)
