"""Zeros in front of a max pooling stay: ONNX Runtime 1.31 and onnxsim 0.6 fold them into the pooling, which pads with −∞."""

from collections import defaultdict

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# The smallest FP16 number, half of what FP32 rounds 1 to: not 0, which is what is folded, and 0 to any computation.
NEARLY_ZERO = 2.0**-24
_TYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def keep_padding(proto: onnx.ModelProto) -> list[str]:
    """Change `proto` so that zeros in front of a MaxPool are not folded into it; returns the names of the Pad nodes.

    A Pad with 0, or without a value, whose result a MaxPool takes, gets NEARLY_ZERO. Folded (PadFusion in ONNX Runtime,
    fuse_pad_into_pool in onnxoptimizer), a window at the border whose values are all below 0 would lose the 0 that is its
    maximum.
    """
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in graph.node if node.op_type == "Constant"
        for attribute in node.attribute if attribute.name == "value"
    }  # fmt: skip
    takers: dict[str, set[str]] = defaultdict(set)
    for node in graph.node:
        for name in node.input:
            takers[name].add(node.op_type)
    changed = []
    for node in graph.node:
        if node.op_type != "Pad" or "MaxPool" not in takers[node.output[0]] or not _pads_zeros(node, constants):
            continue
        given = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        kind = _TYPES[given.data_type] if given is not None else np.float32
        name = f"{node.output[0]}_nearly_zero"
        graph.initializer.append(numpy_helper.from_array(np.array(NEARLY_ZERO, kind), name))
        axes = node.input[3:]
        del node.input[2:]
        node.input.extend([name, *axes])
        changed.append(node.name)
    return changed


def _pads_zeros(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Whether a Pad's mode is constant and its value is 0, or not given. Integers are left: nothing computes on them here."""
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"constant")
    if mode != b"constant":
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = constants.get(node.input[2])
    return value is not None and value.data_type in _TYPES and not numpy_helper.to_array(value).any()
