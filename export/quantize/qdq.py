"""Write Q/DQ into a graph where the decisions of a policy say so: weights per channel, activations per tensor, symmetric.

Weights are stored quantized behind a DequantizeLinear, which makes the file a quarter of the size. INT8 by ONNX's
QuantizeLinear (opset 13): scale = amax / 127 (4-bit weights: amax / 7; uint8 of what is never negative: amax / 255), rounded
half to even. FP8 is E4M3, opset 19: scale = amax / 448.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from calib.precision.policy import Decision, Layer
from export.graph.results import read_users, read_vectors, result_of
from export.graph.signs import never_negative
from export.quantize.dialects import PLAIN, Dialect

Weights = Literal["stored", "on grid", "as they are"]
Floats = NDArray[np.float32]
INT8_MAX = 127
INT8_MIN, STEPS = -128, 255  # the steps between the lowest and the highest of eight bits
UINT8_MAX, UINT8_MIDDLE = 255, 128
Span = tuple[float, float]
NO_SPANS: Mapping[str, Span] = {}
BIAS_STEPS = 2**30  # of an INT32 bias, which leaves room for the products that are added to it
FP8_MAX = 448  # the largest E4M3 number
SHARES = np.linspace(0.3, 1.0, 36)  # of the largest weight: the ranges that are tried below 8 bits
# In FP16 graphs scales are FP16 too. Its normal numbers begin at 2^-14, below them it has the multiples of 2^-24.
FP16_NORMAL, FP16_STEP = 2.0**-14, 2.0**-24
FP32_STEP = 2.0**-40


def weight_axis(layer: Layer, transposed: bool) -> int:
    """The output channels of a layer's weight: MatMul (K, N) the last, Conv and Gemm with transB the first."""
    if layer.operator == "Conv":
        return 0
    if layer.weight_input == 0:
        return len(layer.weight_shape) - 2
    return 0 if transposed else len(layer.weight_shape) - 1


def channel_amax(weight: Floats, axis: int) -> Floats:
    """The largest magnitude of each channel, (channels,)."""
    return np.abs(weight).max(axis=tuple(other for other in range(weight.ndim) if other != axis))


def weight_range(weight: Floats, axis: int, bits: int) -> Floats:
    """The largest magnitude that each channel of a weight keeps, (channels,): quantization after training and training with
    quantization in the loop both start from it.

    At 8 bits it is the largest weight. Below, it is the share of it (`SHARES`) that has the least squared error: with seven
    steps of each sign, a few clipped weights cost less than wider steps for all.
    """
    highest = channel_amax(weight, axis)
    if bits >= 8:
        return highest
    rows = np.moveaxis(weight, axis, 0).reshape(len(highest), -1)
    bound = 2 ** (bits - 1) - 1
    found, least = highest, np.full(len(highest), np.inf)
    for share in SHARES:
        amax = highest * np.float32(share)
        scale = np.where(amax > 0, amax / np.float32(bound), np.float32(1))[:, None]  # a dead channel has no range
        errors = np.clip(np.rint(rows / scale), -bound, bound) * scale - rows
        squared = np.sum(np.square(errors), axis=1, dtype=np.float64)
        found = np.where(squared < least, amax, found)
        least = np.minimum(squared, least)
    return found


def insert_qdq(
    proto: onnx.ModelProto, decisions: Sequence[Decision], amax: Mapping[str, float], *,
    weight_bits: int = 8, weight_amax: Mapping[str, Floats] | None = None, weights: Weights = "stored",
    carried: Collection[str] = (), dialect: Dialect = PLAIN, spans: Mapping[str, Span] = NO_SPANS,
) -> onnx.ModelProto:  # fmt: skip
    """A copy of `proto` with Q/DQ as decided; `amax` holds the range of every activation that gets one, by tensor, `spans` the
    lowest and the highest number of it, for a dialect that asks for them.

    `weight_amax` overrules the range of the weights of a node (by name), one for each output channel; without it, it is that
    of `weight_range`.
    `weights` are stored quantized, or as floats in front of a QuantizeLinear, rounded to the grid before or as they are:
    TensorRT-RTX 1.7.1 dequantizes stored INT8 weights and multiplies in FP16 where a Split follows, as after every qkv.
    `weight_bits` 4 are seven steps of each sign, kept in INT8. `carried` are tensors that carry what was quantized before
    them: they get no Q/DQ of their own. KeyError for a missing range.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    writer = _Writer(copy, amax, weight_amax or {}, weight_bits, weights, frozenset(carried), dialect, spans)
    nodes = {node.name: node for node in copy.graph.node}
    results = output_tensors(proto, decisions, dialect)  # of the graph as it was: Q/DQ are nothing to look behind
    for decision in decisions:
        node = nodes[decision.layer.name]
        source = node.input[1 - decision.layer.weight_input] if decision.layer.weight_shape else ""
        for index in decision.inputs:
            if decision.layer.weight_shape and index == decision.layer.weight_input:
                node.input[index] = writer.weight(node, decision.layer, source)
            else:
                node.input[index] = writer.activation(node.input[index])
    for tensor in results.values():
        writer.output(tensor)
    writer.finish()
    return copy


def output_tensors(proto: onnx.ModelProto, decisions: Sequence[Decision], dialect: Dialect) -> dict[str, str]:
    """By the name of each layer whose output is quantized, the tensor that is; what the graph gives out never is."""
    nodes = {node.name: node for node in proto.graph.node}
    users, vectors = read_users(proto), read_vectors(proto)
    given = {value.name for value in proto.graph.output}
    found = {}
    for decision in decisions:
        if decision.output:
            node = nodes[decision.layer.name]
            tensor = result_of(node, users, vectors) if dialect.behind_activation else node.output[0]
            if tensor not in given:
                found[node.name] = tensor
    return found


class _Writer:
    """Collects new nodes and initializers; a tensor that several layers take is quantized once."""

    def __init__(
        self, proto: onnx.ModelProto, amax: Mapping[str, float], weight_amax: Mapping[str, Floats], bits: int,
        form: Weights, carried: frozenset[str], dialect: Dialect, spans: Mapping[str, Span],
    ):  # fmt: skip
        self._graph, self._amax, self._weight_amax = proto.graph, amax, weight_amax
        self._bits, self._form, self._carried, self._dialect, self._spans = bits, form, carried, dialect, spans
        self._weights = {initializer.name: initializer for initializer in proto.graph.initializer}
        self._first: list[onnx.NodeProto] = []  # of weights
        self._after: dict[str, list[onnx.NodeProto]] = {}  # by the tensor that they follow
        self._quantized: dict[str, str] = {}
        self._outputs = {value.name for value in proto.graph.output}
        self._positive = never_negative(proto)

    def activation(self, name: str) -> str:
        """The quantized and dequantized copy of a tensor."""
        if name in self._carried:
            return name
        if name not in self._quantized:
            self._quantized[name] = self._pair(name)
        return self._quantized[name]

    def output(self, name: str) -> None:
        """Make every user of a tensor take its quantized copy."""
        quantized = self.activation(name)
        for node in self._graph.node:
            for index, used in enumerate(node.input):
                if used == name:
                    node.input[index] = quantized

    def weight(self, node: onnx.NodeProto, layer: Layer, source: str) -> str:
        """The quantized weight of `node`, which multiplies the tensor `source`; a weight of several nodes is stored for each."""
        weight = numpy_helper.to_array(self._weights[node.input[layer.weight_input]]).astype(np.float32)
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        axis = weight_axis(layer, transposed)
        amax = self._weight_amax.get(layer.name)
        bound = 2 ** (self._bits - 1) - 1
        scale = _scale(weight_range(weight, axis, self._bits) if amax is None else amax, bound, self._dialect)
        if self._dialect.int32_biases and len(node.input) > 2 and node.input[2] in self._weights:
            scale = self._bias(node, scale, self._grid(source)[0])
        shape = [1] * weight.ndim
        shape[axis] = -1
        steps = scale.reshape(shape)
        on_grid = np.clip(np.rint(weight / steps), -bound, bound)
        base = f"{layer.name}_weight"
        self._constant(f"{base}_scale", scale)
        self._constant(f"{base}_zero", np.zeros(len(scale), np.int8))
        if self._form == "stored":
            self._constant(f"{base}_quantized", on_grid.astype(np.int8))
        else:
            self._constant(base, weight if self._form == "as they are" else on_grid * steps)
            self._first.append(_node("QuantizeLinear", base, base, axis))
        self._first.append(_node("DequantizeLinear", f"{base}_quantized", base, axis))
        return f"{base}_dequantized"

    def _bias(self, node: onnx.NodeProto, scale: Floats, source: Floats) -> Floats:
        """Store the bias as INT32 on the grid that the products are on: `source` times the weights' scale, which is given back.

        It is wider where the bias would leave 2^30 steps of it: a channel whose weights are next to nothing beside its bias.
        """
        bias = numpy_helper.to_array(self._weights[node.input[2]]).astype(np.float32)
        scale = np.maximum(scale, np.abs(bias) / (source * np.float32(BIAS_STEPS))).astype(np.float32)
        base = f"{node.name}_bias"
        self._constant(f"{base}_scale", (source * scale).astype(np.float32))
        self._constant(f"{base}_zero", np.zeros(len(scale), np.int32))
        steps = bias.astype(np.float64) / (source * scale).astype(np.float64)
        self._constant(f"{base}_quantized", np.rint(steps).astype(np.int32))
        self._first.append(_node("DequantizeLinear", f"{base}_quantized", base, 0))
        node.input[2] = f"{base}_dequantized"
        return scale

    def finish(self) -> None:
        """Put the nodes in topological order and drop weights that nothing uses any more."""
        ordered = [*self._first, *self._after.get(self._graph.input[0].name, [])]
        for node in self._graph.node:
            ordered.append(node)
            ordered += [new for name in node.output for new in self._after.get(name, [])]
        del self._graph.node[:]
        self._graph.node.extend(ordered)
        used = {name for node in ordered for name in node.input} | self._outputs
        kept = [initializer for initializer in self._graph.initializer if initializer.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _pair(self, name: str) -> str:
        base = f"{name}_activation"
        scale, zero = self._grid(name)
        self._constant(f"{base}_scale", scale)
        self._constant(f"{base}_zero", zero)
        self._after[name] = [
            _node("QuantizeLinear", name, base),
            _node("DequantizeLinear", f"{base}_quantized", base),
        ]
        return f"{base}_dequantized"

    def _grid(self, name: str) -> tuple[Floats, NDArray[np.int8] | NDArray[np.uint8]]:
        return activation_grid(self._amax[name], name in self._positive, self._dialect, self._spans.get(name))

    def _constant(self, name: str, values: NDArray[np.generic]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(values, name))


def _node(operator: str, source: str, base: str, axis: int | None = None) -> onnx.NodeProto:
    """A QuantizeLinear or DequantizeLinear with the scale and zero point that are called after `base`."""
    target = "quantized" if operator == "QuantizeLinear" else "dequantized"
    inputs = [source, f"{base}_scale", f"{base}_zero"]
    node = helper.make_node(operator, inputs, [f"{base}_{target}"], f"{base}_{operator}")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def activation_grid(
    amax: float, positive: bool, dialect: Dialect, span: Span | None = None
) -> tuple[Floats, NDArray[np.int8] | NDArray[np.uint8]]:
    """Scale and zero point of a tensor with magnitudes up to `amax`, from the lowest to the highest of its `span` where the
    dialect quantizes that; `positive` where it is never negative."""
    if span is not None and dialect.activations == "signed over the range":
        low, high = (float(np.clip(end, -amax, amax)) for end in (min(span[0], 0.0), max(span[1], 0.0)))
        scale = _scale(high - low, STEPS, dialect)
        return scale, np.asarray(np.clip(np.rint(INT8_MIN - low / float(scale)), INT8_MIN, INT8_MAX), np.int8)
    unsigned = positive and dialect.activations != "signed"
    scale = _scale(amax, UINT8_MAX if unsigned else INT8_MAX, dialect)
    if unsigned or dialect.activations == "unsigned":
        return scale, np.asarray(0 if unsigned else UINT8_MIDDLE, np.uint8)
    return scale, np.zeros((), np.int8)


def _scale(amax: ArrayLike, highest: int, dialect: Dialect) -> Floats:
    return (fp16_scale if dialect.fp16_scales else fp32_scale)(amax, highest)


def fp16_scale(amax: ArrayLike, highest: float) -> Floats:
    """amax / highest in float32, as FP16 holds it too: below its normal numbers rounded up to a multiple of its step.

    So weights are quantized by the very scale that an FP16 graph dequantizes them by, however small they are: 1/std of the
    pixels is in the weights of a first convolution, and BatchNorm in those after it. Never 0, which TensorRT refuses: a
    channel of zeros has one step.
    """
    scale = np.asarray(amax, dtype=np.float32) / np.float32(highest)
    steps = np.maximum(np.ceil(scale / np.float32(FP16_STEP)), np.float32(1))
    return np.where(scale < FP16_NORMAL, steps * np.float32(FP16_STEP), scale).astype(np.float32)


def fp32_scale(amax: ArrayLike, highest: float) -> Floats:
    """amax / highest in float32, at least `FP32_STEP`, so that no product of two scales is 0."""
    scale = np.asarray(amax, dtype=np.float32) / np.float32(highest)
    return np.maximum(scale, np.float32(FP32_STEP)).astype(np.float32)


def to_fp8(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an INT8 graph with FP8 (E4M3) in its place: the same ranges, on another grid.

    ValueError where weights are stored as INT8: their FP8 values are lost.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    constants = {initializer.name: initializer for initializer in copy.graph.initializer}
    pairs = [node for node in copy.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if any(node.input[0] in constants for node in pairs if node.op_type == "DequantizeLinear"):
        raise ValueError("weights are stored as INT8: write the graph with weights as they are")
    for name in {node.input[1] for node in pairs}:
        scale = numpy_helper.to_array(constants[name])
        amax = scale.astype(np.float32) * np.float32(INT8_MAX)
        constants[name].CopyFrom(numpy_helper.from_array(fp16_scale(amax, FP8_MAX).astype(scale.dtype), name))
    for name in {node.input[2] for node in pairs}:
        dims = list(constants[name].dims)
        zeros = helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, dims, bytes(math.prod(dims)), raw=True)
        constants[name].CopyFrom(zeros)
    del copy.graph.value_info[:]  # some of it says INT8
    return copy
