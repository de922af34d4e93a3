"""INT8 weights that OpenVINO multiplies without saturation on CPUs without byte dot products."""

from typing import Any

import numpy as np

STEPS = 63  # of each sign: 7 bits
_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")


def fit_16_bits(model: Any) -> int:
    """Bring the INT8 weights of the products of an `openvino.Model` to 7 bits, in place; returns of how many products.

    Weights are a product's second operand. VPMADDUBSW multiplies bytes and adds two products in 16 bits with saturation
    (Intel's manual, volume 2). An unsigned activation and weights of 127 steps reach 2 · 255 · 127 = 64,770, which is cut to
    32,767: a first convolution over bright pixels loses most. With 63 steps it is 32,130. The largest weight of each channel
    stays what it was. As they are stay weights of no more than 63 steps (4-bit ones), and those of a convolution with one
    input channel for each output: pairs are of channels.
    """
    return sum(_fit(node) for node in model.get_ordered_ops() if node.get_type_name() in _PRODUCTS)


def _fit(product: Any) -> bool:
    """As the Q/DQ writer stores a weight: INT8 constant, Convert, Subtract of the zero point, Multiply by the scale.

    A Reshape to (groups, outputs, inputs, height, width) follows where a convolution has groups.
    """
    from openvino import opset13

    multiply = product.input_value(1).get_node()
    if multiply.get_type_name() == "Reshape":
        multiply = multiply.input_value(0).get_node()
    if multiply.get_type_name() != "Multiply":
        return False
    stored = multiply.input_value(0).get_node()
    while stored.get_type_name() in ("Convert", "Subtract"):
        stored = stored.input_value(0).get_node()
    if stored.get_type_name() != "Constant" or stored.get_output_element_type(0).to_dtype() != np.int8:
        return False
    steps = stored.get_data()
    one_channel = product.get_type_name() != "MatMul" and steps.shape[1] == 1
    if one_channel or np.abs(steps.astype(np.int16)).max() <= STEPS:
        return False
    fewer = np.rint(steps.astype(np.float32) * np.float32(STEPS / 127)).astype(np.int8)
    stored.output(0).replace(opset13.constant(fewer).output(0))
    wider = opset13.multiply(multiply.input_value(1), opset13.constant(np.float32(127 / STEPS)))
    multiply.input(1).replace_source_output(wider.output(0))
    return True
