"""Give an attention with one head two of them, each for half of the queries.

TensorRT fuses no attention whose batch times heads is 1, and then writes the whole scores out: for the token transformer's
3136 tokens 20 MB an image in FP16. Each query's softmax is its own, so the queries can be shared out between two heads that
have the same keys and values: the same numbers, no more products. A quantized operand is shared out before its Q/DQ, which
stay beside the products.
"""

from collections.abc import Mapping

import onnx

from export.graph.layers import tensor_shapes
from export.graph.node_writer import NodeWriter
from export.graph.roles import QDQ, find_roles


def halve_single_heads(proto: onnx.ModelProto) -> list[str]:
    """Rewrite, in place, every attention with exactly one head and an even number of tokens; the names of their Q·Kᵀ."""
    shapes = tensor_shapes(proto)
    scores = [name for name, found in find_roles(proto, shapes).items() if found.role == "scores"]
    done = [name for name in scores if _halve(proto, name, shapes)]
    if done:
        del proto.graph.value_info[:]  # some recorded shapes are still those of one head
    return done


def _halve(proto: onnx.ModelProto, name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    nodes = {node.name: node for node in proto.graph.node}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for tensor in node.input:
            users.setdefault(tensor, []).append(node)
    product = nodes[name]
    between = [users[product.output[0]][0]]
    shape = shapes.get(product.output[0], ())
    width = shapes.get(product.input[0], (0,))[-1]
    if between[0].op_type != "Softmax" or len(shape) != 4 or shape[1] != 1 or shape[2] % 2 or not shape[2] or not width:
        return False
    while (context := users[between[-1].output[0]][0]).op_type in QDQ:
        between.append(context)
    operands = [_operand(proto, product, 0), _operand(proto, product, 1), _operand(proto, context, 1)]
    if any(len(users[node.output[0]]) > 1 for chain, _ in operands for node in chain[:-1]):
        return False  # a Q/DQ that others take, too
    tokens, result = shape[2], context.output[0]
    before, after = NodeWriter(proto, name, "halves"), NodeWriter(proto, context.name, "halves")
    (query, at), *twice = [(chain[0], index) for chain, index in operands]
    query.input[at] = before.node("Reshape", query.input[at], before.integers(-1, 2, tokens // 2, width))
    for node, index in twice:
        node.input[index] = before.node("Concat", node.input[index], node.input[index], axis=1)
    context.output[0] = f"{result}_halves"
    after.node("Reshape", context.output[0], after.integers(-1, 1, tokens, shapes[result][-1]), output=result)
    chains = [node for chain, _ in operands for node in chain[:-1]]
    _insert(proto, context.name, before.nodes, after.nodes, [*chains, product, *between, context])
    return True


def _operand(proto: onnx.ModelProto, product: onnx.NodeProto, index: int) -> tuple[list[onnx.NodeProto], int]:
    """The Q/DQ before an operand and then the product, and which input of the first of them is the operand."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    chain = [product]
    tensor = product.input[index]
    while (node := makers.get(tensor)) is not None and node.op_type in QDQ:
        chain.insert(0, node)
        tensor = node.input[0]
    return chain, index if len(chain) == 1 else 0


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
