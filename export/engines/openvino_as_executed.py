"""Operations of an `openvino.Model` written as the CPU's graph has them.

OpenVINO's own passes write some operations in another way, and drop their attributes on the way; what they find written so, they
leave alone.
"""

from typing import Any

import numpy as np

_KEEP_SCALE = (
    "Multiply", "Subtract", "Reshape", "Transpose", "Split", "VariadicSplit", "Squeeze", "Unsqueeze", "Slice", "StridedSlice",
)  # fmt: skip


class AsExecuted:
    """Replaces operations of one model by those that the CPU's graph has in their place.

    `a - b` is `a + (-1) * b` there, `a / b` is `a * b^(-1)`, two limits are one Clamp, a Pad is that of the first operator
    set, and a product transposes its inputs itself. From plain constants OpenVINO would make a Subtract or Divide again, only to
    write it anew. Here they are results of an Elu, which it does not compute that early: Elu(1) is 1 and Elu(0) is 0.
    """

    def __init__(self) -> None:
        from openvino import opset13

        one = opset13.elu(np.float32(1), 1.0, name="one")
        self._minus_one = opset13.multiply(one, np.float32(-1), name="minus_one")
        self._lowest = opset13.multiply(one, np.finfo(np.float32).min, name="lowest")
        self._zero = opset13.elu(np.float32(0), 1.0, name="zero")
        # By value: OpenVINO drops the second of two equal operations.
        self._negative: dict[Any, Any] = {}
        self._barriers: dict[Any, Any] = {}

    def write(self, operation: Any) -> list[Any]:
        """The operations in its place, the last with its name; the operation where the CPU's graph has the same."""
        return [*self._apart(operation), *self._as_executed(operation)]

    def _apart(self, operation: Any) -> list[Any]:
        """For each 8-bit tensor that the operation takes, one in front of it that OpenVINO does not move the scale past.

        In another place the scale would be a part of the operation, in the precision of the hint.
        """
        from openvino import opset13

        added = []
        for index, value in enumerate(operation.input_values()):
            if _dequantized(value):
                if value not in self._barriers:
                    name = f"{operation.get_friendly_name()}/input_{index}"
                    self._barriers[value] = opset13.maximum(value, self._lowest, name=name)
                added.append(self._barriers[value])
                operation.input(index).replace_source_output(added[-1].output(0))
        return added

    def _as_executed(self, operation: Any) -> list[Any]:
        kind = operation.get_type_name()
        if kind == "Subtract":
            return self._adding(operation)
        if kind == "Divide":
            return self._multiplying(operation)
        if kind == "Minimum":
            return _clamping(operation)
        if kind == "Pad":
            return _padding(operation)
        return _transposing(operation) if kind == "MatMul" else [operation]

    def _adding(self, subtract: Any) -> list[Any]:
        from openvino import opset13

        first, second = subtract.input_values()
        constant = second.get_node()
        if constant.get_type_name() == "Constant":
            less = opset13.add(
                first, opset13.constant(-constant.get_data()), name=f"{subtract.get_friendly_name()}/less"
            )
            return [less, _put_in_place(subtract, opset13.maximum(less, self._lowest))]  # a Multiply behind stays apart
        if second not in self._negative:
            name = f"{subtract.get_friendly_name()}/negative"
            self._negative[second] = opset13.multiply(second, self._minus_one, name=name)
        return [self._negative[second], _put_in_place(subtract, opset13.add(first, self._negative[second]))]

    def _multiplying(self, divide: Any) -> list[Any]:
        from openvino import opset13

        first, second = divide.input_values()
        divisor = _number(second)
        if divisor is not None:
            return [_put_in_place(divide, opset13.multiply(first, np.float32(1 / divisor)))]
        power = opset13.power(second, np.float32(-1), name=f"{divide.get_friendly_name()}/power")
        inverse = opset13.add(power, self._zero, name=f"{divide.get_friendly_name()}/inverse")
        if _number(first) == 1:
            return [power, _put_in_place(divide, inverse)]
        return [power, inverse, _put_in_place(divide, opset13.multiply(first, inverse))]


def _dequantized(value: Any) -> bool:
    """Whether a value is an 8-bit tensor, with or without its scale, or parts of one, or one in another shape."""
    node = value.get_node()
    while node.get_type_name() in _KEEP_SCALE:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Convert" and node.get_input_element_type(0).to_dtype() in (np.int8, np.uint8))


def _number(value: Any) -> float | None:
    """The number that a constant of one element holds; None for any other value."""
    node = value.get_node()
    return float(node.get_data().item()) if node.get_type_name() == "Constant" and node.get_data().size == 1 else None


def _clamping(minimum: Any) -> list[Any]:
    """A Clamp for the Minimum of a number and of the Maximum of another and something."""
    from openvino import opset13

    high, maximum = sorted(minimum.input_values(), key=lambda value: _number(value) is None)
    if _number(high) is None or maximum.get_node().get_type_name() != "Maximum":
        return [minimum]
    low, values = sorted(maximum.get_node().input_values(), key=lambda value: _number(value) is None)
    if _number(low) is None:
        return [minimum]
    return [_put_in_place(minimum, opset13.clamp(values, _number(low), _number(high)))]


def _padding(pad: Any) -> list[Any]:
    """The Pad of the first operator set, which knows no negative width."""
    from openvino import opset1

    values, begin, end, *fill = pad.input_values()
    if any(
        name.get_node().get_type_name() != "Constant" or name.get_node().get_data().min() < 0 for name in (begin, end)
    ):
        return [pad]
    return [_put_in_place(pad, opset1.pad(values, begin, end, pad.get_attributes()["pad_mode"], *fill))]


def _transposing(product: Any) -> list[Any]:
    """A MatMul that takes what was transposed in front of it."""
    from openvino import opset13

    flags = product.get_attributes()
    transposed = [flags["transpose_a"], flags["transpose_b"]]
    values = product.input_values()
    for index, value in enumerate(values):
        source = value.get_node()
        if source.get_type_name() == "Transpose" and _swaps_last_two(source):
            values[index], transposed[index] = source.input_value(0), not transposed[index]
    if transposed == [flags["transpose_a"], flags["transpose_b"]]:
        return [product]
    return [_put_in_place(product, opset13.matmul(*values, *transposed))]


def _swaps_last_two(transpose: Any) -> bool:
    order = transpose.input_value(1).get_node()
    if order.get_type_name() != "Constant":
        return False
    axes = order.get_data().tolist()
    return bool(axes == [*range(len(axes) - 2), len(axes) - 1, len(axes) - 2])


def _put_in_place(old: Any, new: Any) -> Any:
    new.set_friendly_name(old.get_friendly_name())
    old.output(0).replace(new.output(0))
    return new
