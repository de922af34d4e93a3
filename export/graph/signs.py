"""Which tensors of a graph are never negative, whatever the images: known from their operators alone."""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

_POSITIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Sqrt")
_KEEP = (
    "AveragePool", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "Pad", "ReduceMax",
    "ReduceMean", "ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
_COMBINE = ("Add", "Concat", "Max", "Mul")  # of what is never negative, constants included


def never_negative(proto: onnx.ModelProto) -> set[str]:
    """The names of these tensors."""
    constants = {value.name: numpy_helper.to_array(value) for value in proto.graph.initializer}
    found: set[str] = set()
    for node in proto.graph.node:
        if _is_positive(node, found, constants):
            found.update(node.output)
    return found


def _is_positive(node: onnx.NodeProto, found: set[str], constants: Mapping[str, NDArray[np.generic]]) -> bool:
    if node.op_type in _POSITIVE:
        return True
    if node.op_type == "Clip":
        low = constants.get(node.input[1]) if len(node.input) > 1 else None
        return node.input[0] in found or (low is not None and float(low) >= 0)
    if node.op_type in _KEEP:
        return node.input[0] in found
    if node.op_type in _COMBINE:
        return all(name in found or (name in constants and constants[name].min(initial=0) >= 0) for name in node.input)
    return False
