"""Compute BatchNorm in the weights of the product before it, as exporters do after a convolution only.

A norm over tokens takes them as rows: (B, T, C) → Reshape (B·T, C) → BatchNormalization → Reshape (B, T, C), as behind every
product of LeViT. Left there it is a kernel of its own, the rest of an INT8 product's scales is multiplied before the Reshape,
and OpenVINO 2026.4.1 throws on some of them ("ReshapeTransformation").
"""

from collections import Counter

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graph.node_writer import NodeWriter

_EPSILON = 1e-5  # ONNX's default


def fold_batch_norms(proto: onnx.ModelProto) -> int:
    """Fold, in place, each BatchNormalization behind a MatMul with constant weights (C_in, C); how many there were.

    Between them may be a Reshape to (rows, C). Nothing else may take what is between them. Nodes need unique names.
    """
    constants = {value.name: value for value in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    uses = Counter(name for node in proto.graph.node for name in node.input)
    uses.update(value.name for value in proto.graph.output)
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    return sum(_fold(proto, norm, constants, makers, uses) for norm in norms)


def _fold(
    proto: onnx.ModelProto, norm: onnx.NodeProto, constants: dict[str, onnx.TensorProto],
    makers: dict[str, onnx.NodeProto], uses: Counter[str],
) -> bool:  # fmt: skip
    if len(norm.output) != 1 or any(name not in constants for name in norm.input[1:]):
        return False
    chain = [norm]  # from the norm back to the product
    while (before := makers.get(chain[-1].input[0])) is not None and uses[before.output[0]] == 1:
        chain.append(before)
        if before.op_type != "Reshape":
            break
    product, reshapes = chain[-1], chain[1:-1]
    if product.op_type != "MatMul" or product.input[1] not in constants or len(reshapes) > 1:
        return False
    weights = numpy_helper.to_array(constants[product.input[1]]).astype(np.float64)
    if weights.ndim != 2 or any(not _to_rows(node, constants, weights.shape[1]) for node in reshapes):
        return False
    scale, shift = _affine(norm, constants)
    writer = NodeWriter(proto, product.name, "folded")
    weighted = writer.node("MatMul", product.input[0], writer.floats(weights * scale))
    biased = writer.node("Add", weighted, writer.floats(shift), output="" if reshapes else norm.output[0])
    for node in reshapes:
        writer.node("Reshape", biased, node.input[1], output=norm.output[0])
    writer.replace(tuple(node.name for node in chain))
    return True


def _to_rows(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], channels: int) -> bool:
    """Whether a Reshape is to (rows, channels), which leaves a last axis of so many channels as it is."""
    if node.input[1] not in constants:
        return False
    shape = numpy_helper.to_array(constants[node.input[1]])
    return shape.size == 2 and int(shape[1]) == channels


def _affine(
    norm: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The norm as a scale and a shift per channel, (C,) each."""
    values = [numpy_helper.to_array(constants[name]).astype(np.float64) for name in norm.input[1:]]
    weight, bias, mean, variance = values
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), _EPSILON)
    scale = weight / np.sqrt(variance + epsilon)
    return scale, bias - mean * scale
