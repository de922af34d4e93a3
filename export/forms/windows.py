"""Write the soft splits of a graph as windows, a LayerNorm and a product, and performers without shifts: for INT8 in FP32 graphs.

Each window is normalised before it is quantized, so it fills the grid, and its product can be INT8; in the network's own
form, a convolution of x − mean(x), a flat window beside a contrasty one would not. The map stays with its channels last, as
the tokens before it are, so that a window is a row of rows and nothing is transposed. A performer's exponents are at most
|w|²/2, which overflows FP16 but not FP32 (docs/performer.md), so the shifts of the network's own form are left out.
"""

import numpy as np
import onnx

from export.forms.token_nodes import (
    Floats,
    Performer,
    SoftSplit,
    Unrecognised,
    read_performer,
    read_soft_split,
    token_attentions,
)
from export.graph.layers import tensor_shapes
from export.graph.node_writer import NodeWriter
from export.graph.pixels import read_pixels, write_pixels

FEW_CHANNELS = 16  # below, single pixels are too short to be gathered one by one
_LINEAR = {"TokenPerformer": "kqv", "TokenTransformer": "attn.qkv"}  # the network's name of the product


def write_windows(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an FP32 graph with its token attentions rewritten where they are as `models` has them; `proto` without any.

    Nodes outside keep their names; the product of the windows is a layer of its own, the `Linear` of the network.
    """
    found = token_attentions(proto)
    if not found:
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for module, kind in found:
        try:
            split = read_soft_split(copy, module)
            performer = read_performer(copy, split) if kind == "TokenPerformer" else None
        except Unrecognised:
            continue  # it stays in the network's own form, which no engine computes in INT8
        _rewrite(copy, split, performer, f"{module}.{_LINEAR[kind]}")
    del copy.graph.value_info[:]
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _rewrite(proto: onnx.ModelProto, split: SoftSplit, performer: Performer | None, linear: str) -> None:
    _, channels, height, width = tensor_shapes(proto)[split.image]
    writer = NodeWriter(proto, split.nodes[0], "windows")
    pixels = write_pixels(writer, read_pixels(proto, split.image), channels, height, width)
    x = write_unfold(writer, pixels, split, channels, height, width)
    size = len(split.inner[0].reshape(-1))
    x = writer.node(
        "LayerNormalization", x, writer.floats(np.ones(size)), writer.floats(np.zeros(size)), axis=-1, epsilon=split.eps
    )
    if performer is None:
        _write_linear(writer, x, split, slice(None), linear, split.result)
        writer.replace(split.nodes)
        return
    _write_performer(writer, x, split, performer, linear)
    writer.replace((*split.nodes, *performer.nodes))


def write_unfold(writer: NodeWriter, pixels: str, split: SoftSplit, channels: int, height: int, width: int) -> str:
    """Windows (B, h·w, k·k·C) of a map (B, H, W, C), by one Gather of rows of a few of its numbers that lie side by side."""
    kernel, stride, padding = split.inner.shape[-1], split.stride, split.padding
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    down = stride * np.arange(rows)[:, None] + np.arange(kernel)  # h k
    if channels < FEW_CHANNELS:
        x = _write_window_rows(writer, pixels, split, channels, (height, width), columns)
        places = down[:, None, :] * columns + np.arange(columns)[None, :, None]  # h w k
    else:
        wide = width + 2 * padding
        x = writer.node("Pad", pixels, writer.integers(0, padding, padding, 0, 0, padding, padding, 0))
        x = writer.node("Reshape", x, writer.integers(-1, (height + 2 * padding) * wide, channels))
        along = stride * np.arange(columns)[:, None] + np.arange(kernel)  # w k
        places = down[:, None, :, None] * wide + along[None, :, None, :]  # h w k k
    x = writer.node("Gather", x, writer.integers(*places.reshape(-1).tolist()), axis=1)
    return writer.node("Reshape", x, writer.integers(-1, rows * columns, kernel * kernel * channels))


def _write_window_rows(
    writer: NodeWriter, pixels: str, split: SoftSplit, channels: int, size: tuple[int, int], columns: int
) -> str:
    """The rows of all windows, (B, H·w, k·C), H with the padding, joined of pieces of `stride` pixels."""
    kernel, stride, padding = split.inner.shape[-1], split.stride, split.padding
    height, width = size[0] + 2 * padding, size[1]
    pieces = -(-kernel // stride)
    needed = stride * (columns + pieces - 1)
    right = max(0, needed - width - padding)
    x = writer.node("Pad", pixels, writer.integers(0, padding, padding, 0, 0, padding, right, 0))
    if padding + width + right > needed:
        x = writer.node("Slice", x, writer.integers(0), writer.integers(needed), writer.integers(2))
    x = writer.node("Reshape", x, writer.integers(-1, height, columns + pieces - 1, stride * channels))
    parts = []
    for piece in range(pieces):
        wide = channels * min(stride, kernel - piece * stride)
        starts, ends = writer.integers(piece, 0), writer.integers(piece + columns, wide)
        parts.append(writer.node("Slice", x, starts, ends, writer.integers(2, 3)))
    x = writer.node("Concat", *parts, axis=3) if pieces > 1 else parts[0]  # B H w k·C
    return writer.node("Reshape", x, writer.integers(-1, height * columns, kernel * channels))


def _write_linear(writer: NodeWriter, x: str, split: SoftSplit, outputs: slice, module: str, result: str = "") -> str:
    """The product of normalised windows with some of the outputs' weights, and their bias."""
    weight: Floats = split.inner.transpose(2, 3, 1, 0).reshape(-1, len(split.inner))[:, outputs]  # k·k·C out
    bias = split.bias[outputs]
    if not bias.any():
        return writer.node("MatMul", x, writer.floats(weight), output=result, module=module, kind="Linear")
    y = writer.node("MatMul", x, writer.floats(weight), module=module, kind="Linear")
    return writer.node("Add", y, writer.floats(bias), output=result)


def _write_performer(writer: NodeWriter, x: str, split: SoftSplit, of: Performer, linear: str) -> None:
    """φ(q)·(Σφ(k)vᵀ) / (φ(q)·Σφ(k) + ε) with φ(x) = exp(wx − |x|²/2), k and q together, v by a product of its own.

    A split of one product would be copied, and its scales applied three times.
    """
    width, features = of.features.shape
    both = _write_linear(writer, x, split, slice(2 * width), linear)
    values = _write_linear(writer, x, split, slice(2 * width, None), linear, of.value_output)
    both = writer.node("Reshape", both, writer.integers(-1, split.tokens, 2, width))  # B T 2 D
    norm = writer.node("ReduceSum", writer.node("Mul", both, both), writer.integers(-1), keepdims=1)
    exponent = writer.node("MatMul", both, writer.floats(of.features))  # B T 2 m
    feature = writer.node("Exp", writer.node("Sub", exponent, writer.node("Mul", norm, writer.floats(0.5))))
    feature = writer.node("Reshape", feature, writer.integers(-1, split.tokens, 2 * features))
    key, query = writer.split(feature, features, features)  # B T m
    context = writer.node("MatMul", writer.node("Transpose", key, perm=[0, 2, 1]), values)  # B m D
    total = writer.node("Transpose", writer.node("ReduceSum", key, writer.integers(1), keepdims=1), perm=[0, 2, 1])
    normaliser = writer.node("Add", writer.node("MatMul", query, total), writer.floats(of.epsilon))  # B T 1
    writer.node("Div", writer.node("MatMul", query, context), normaliser, output=of.output)
