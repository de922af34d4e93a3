"""Give an attention with one head two of them, each for half of the queries.

TensorRT fuses no attention whose batch times heads is 1, and then writes the whole scores out: for the token transformer's
3136 tokens 20 MB an image in FP16. Each query's softmax is its own, so the queries can be shared out between two heads that
have the same keys and values: the same numbers, no more products.
"""

from collections.abc import Mapping

import onnx

from export.layers import tensor_shapes
from export.node_writer import NodeWriter
from export.roles import find_roles


def halve_single_heads(proto: onnx.ModelProto) -> list[str]:
    """Rewrite, in place, every attention with exactly one head and an even number of tokens; the names of their Q·Kᵀ."""
    shapes = tensor_shapes(proto)
    scores = [name for name, found in find_roles(proto, shapes).items() if found.role == "scores"]
    done = [name for name in scores if _halve(proto, name, shapes)]
    if done:
        del proto.graph.value_info[:]  # some of it says one head
    return done


def _halve(proto: onnx.ModelProto, name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    nodes = {node.name: node for node in proto.graph.node}
    users = {tensor: node for node in proto.graph.node for tensor in node.input}
    product = nodes[name]
    softmax = users[product.output[0]]
    shape = shapes.get(product.output[0], ())
    width = shapes.get(product.input[0], (0,))[-1]
    if softmax.op_type != "Softmax" or len(shape) != 4 or shape[1] != 1 or shape[2] % 2 or not shape[2] or not width:
        return False
    context = users[softmax.output[0]]
    tokens, result = shape[2], context.output[0]
    before, after = NodeWriter(proto, name, "halves"), NodeWriter(proto, context.name, "halves")
    query = before.node("Reshape", product.input[0], before.integers(-1, 2, tokens // 2, width))
    key = before.node("Concat", product.input[1], product.input[1], axis=1)
    value = before.node("Concat", context.input[1], context.input[1], axis=1)
    product.input[0], product.input[1], context.input[1] = query, key, value
    context.output[0] = f"{result}_halves"
    after.node("Reshape", context.output[0], after.integers(-1, 1, tokens, shapes[result][-1]), output=result)
    _insert(proto, context.name, before.nodes, after.nodes, [product, softmax, context])
    return True


def _insert(
    proto: onnx.ModelProto, place: str, before: list[onnx.NodeProto], after: list[onnx.NodeProto],
    attention: list[onnx.NodeProto],
) -> None:  # fmt: skip
    """Put the attention together where its last node is: all that it takes is made by then."""
    names = {node.name for node in attention}
    ordered: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.name == place:
            ordered += [*before, *attention, *after]
        elif node.name not in names:
            ordered.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
