"""Move the heads of Q, K and V to the front together, where an attention's qkv product is quantized.

In FP16 TensorRT computes three products that already lie as its fused attention wants them. An INT8 product comes out
whole instead, and Q, K and V are then rearranged by a kernel each. Split after the rearrangement, it is one.
"""

from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graph.node_writer import NodeWriter

_MOVES: dict[tuple[int, ...], tuple[int, ...] | None] = {
    (0, 2, 1, 3): None,
    (0, 2, 3, 1): (0, 1, 3, 2),
}  # of a part; what is left to do after the common one
_THROUGH = ("Add",)  # between the product and the split: a bias


def move_heads_once(proto: onnx.ModelProto) -> list[str]:
    """Rewrite, in place, every Split of a quantized qkv product whose parts are all rearranged; their names."""
    return [name for name in [node.name for node in proto.graph.node if node.op_type == "Split"] if _move(proto, name)]


def _move(proto: onnx.ModelProto, name: str) -> bool:
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for tensor in node.input:
            users.setdefault(tensor, []).append(node)
    parts = next(node for node in proto.graph.node if node.name == name)
    constants = {value.name: numpy_helper.to_array(value) for value in proto.graph.initializer}
    if not _is_quantized_product(proto, parts.input[0]) or len(parts.output) != 3:
        return False
    chains = [chain for tensor in parts.output if (chain := _chain(tensor, users, constants)) is not None]
    shapes = {shape for _, _, shape in chains}
    if len(chains) != 3 or len(shapes) != 1 or not _is_even(parts, constants):
        return False
    tokens, heads, width = shapes.pop()
    writer = NodeWriter(proto, name, "heads")
    together = writer.node("Reshape", parts.input[0], writer.integers(-1, tokens, 3 * heads, width))
    together = writer.node("Transpose", together, perm=[0, 2, 1, 3])  # B 3·heads T width
    rest = [_MOVES[_perm(transpose)] for _, transpose, _ in chains]
    results = [transpose.output[0] for _, transpose, _ in chains]
    names = [result if after is None else "" for result, after in zip(results, rest, strict=True)]
    pieces = writer.split(together, heads, heads, heads, axis=1, names=names)
    for piece, result, after in zip(pieces, results, rest, strict=True):
        if after is not None:
            writer.node("Transpose", piece, output=result, perm=list(after))
    writer.replace((name, *(node.name for reshape, transpose, _ in chains for node in (reshape, transpose))))
    return True


def _is_quantized_product(proto: onnx.ModelProto, tensor: str) -> bool:
    maker = {name: node for node in proto.graph.node for name in node.output}
    node = maker.get(tensor)
    if node is not None and node.op_type in _THROUGH:
        node = next((maker[name] for name in node.input if name in maker), None)
    if node is None or node.op_type != "MatMul":
        return False
    return all(name in maker and maker[name].op_type == "DequantizeLinear" for name in node.input)


def _chain(
    tensor: str, users: Mapping[str, list[onnx.NodeProto]], constants: Mapping[str, NDArray[Any]]
) -> tuple[onnx.NodeProto, onnx.NodeProto, tuple[int, int, int]] | None:
    """The Reshape and the Transpose that a part goes through, and tokens, heads and head width; None for anything else."""
    if len(users.get(tensor, [])) != 1:
        return None
    reshape = users[tensor][0]
    if reshape.op_type != "Reshape" or reshape.input[1] not in constants or len(users.get(reshape.output[0], [])) != 1:
        return None
    transpose = users[reshape.output[0]][0]
    shape = constants[reshape.input[1]]
    if transpose.op_type != "Transpose" or len(shape) != 4 or _perm(transpose) not in _MOVES or min(shape[1:]) < 1:
        return None
    return reshape, transpose, (int(shape[1]), int(shape[2]), int(shape[3]))


def _perm(node: onnx.NodeProto) -> tuple[int, ...]:
    return tuple(next(attribute.ints for attribute in node.attribute if attribute.name == "perm"))


def _is_even(parts: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> bool:
    """Whether it splits the last of three axes into equal parts."""
    axis = next((attribute.i for attribute in parts.attribute if attribute.name == "axis"), 0)
    if axis not in (2, -1):
        return False
    sizes = constants.get(parts.input[1]) if len(parts.input) > 1 and parts.input[1] else None
    return sizes is None or len(set(sizes.tolist())) == 1
