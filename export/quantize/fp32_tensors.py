"""What an engine in BF16 computes in FP32 all the same: a list in the metadata of the graph, which is else as it was.

BF16 has FP32's range, so nothing overflows, and no cast is needed in the graph. It has 8 bits of precision, which the performer's
exponentials would amplify.
"""

import json

import onnx

from calib.precision.policy import WEIGHT_OPERATORS, performer_kernel
from export.graph.layers import read_layers
from export.onnx_export import FP32_TENSORS, NormalisedModel, set_metadata

_PIXELS = (NormalisedModel.__name__,)


def list_fp32_tensors(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `proto`, FP32 with or without Q/DQ, that lists the performer's kernel without its quantized products.

    With a kernel, also the normalisation of the pixels, of which the first soft split takes moments: rounding the pixels to BF16
    costs more than everything in the kernel.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    layers = read_layers(copy)
    kernel = performer_kernel(layers)
    pixels = [layer for layer in layers if kernel and layer.classes == _PIXELS and layer.operator in ("Sub", "Mul")]
    wanted = {layer.name for layer in (*pixels, *kernel)} - _quantized_products(copy)
    tensors = [name for node in copy.graph.node if node.name in wanted for name in node.output]
    set_metadata(copy, {FP32_TENSORS: json.dumps(tensors)})
    return copy


def _quantized_products(proto: onnx.ModelProto) -> set[str]:
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.name
        for node in proto.graph.node
        if node.op_type in WEIGHT_OPERATORS and dequantized.issuperset(node.input[:2])
    }
