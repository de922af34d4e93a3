"""Compute BatchNorm in the weights of the product before it, as exporters do after a convolution only.

A norm over tokens takes them as rows: (B, T, C) → Reshape (B·T, C) → BatchNormalization → Reshape (B, T, C), as LeViT has it
behind every product (timm's is merged before, see `export.merge`; a network of one's own is not). Left there it is a kernel of
its own, the rest of an INT8 product's scales is multiplied before the Reshape, and OpenVINO 2026.4.1 throws on some of them
("ReshapeTransformation").
"""

from collections import Counter

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graph.node_writer import NodeWriter

_EPSILON = 1e-5  # ONNX's default


def fold_batch_norms(proto: onnx.ModelProto) -> int:
    """Fold, in place, each BatchNormalization behind a MatMul with constant weights (C_in, C) and a Reshape to (rows, C); how
    many there were.

    Without the Reshape the norm's channels could be another axis than the product's. Nothing else may take what is between
    them. Nodes need unique names.
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
    reshape = makers.get(norm.input[0])
    product = makers.get(reshape.input[0]) if reshape is not None and reshape.op_type == "Reshape" else None
    if reshape is None or product is None or product.op_type != "MatMul" or product.input[1] not in constants:
        return False
    if uses[reshape.output[0]] > 1 or uses[product.output[0]] > 1:
        return False
    weights = numpy_helper.to_array(constants[product.input[1]]).astype(np.float64)
    if weights.ndim != 2 or not _to_rows(reshape, constants, weights.shape[1]):
        return False
    scale, shift = _affine(norm, constants)
    writer = NodeWriter(proto, product.name, "folded")
    weighted = writer.node("MatMul", product.input[0], writer.floats(weights * scale))
    biased = writer.node("Add", weighted, writer.floats(shift))
    writer.node("Reshape", biased, reshape.input[1], output=norm.output[0])
    writer.replace((product.name, reshape.name, norm.name))
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
