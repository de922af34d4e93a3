"""Write the token attentions of a graph in the form that gives TensorRT the fewest kernels, with the same result.

A GPU pays for each kernel it starts, a CPU for each product, so only graphs for GPUs are rewritten. docs/tensorrt-graph.md
derives the form: all that a soft split needs comes out of one convolution, both exponents of a performer out of one
product, and its normaliser as one more column of its values. Its exponentials are not shifted into FP16's range, as the
network's own form has them, because these nodes compute in FP32: `check_pins` holds that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from export.forms.heads_once import move_heads_once
from export.forms.single_head import halve_single_heads
from export.forms.token_nodes import (
    Performer,
    SoftSplit,
    Unrecognised,
    read_performer,
    read_soft_split,
    token_attentions,
)
from export.graph.node_writer import NodeWriter

Floats = NDArray[np.float64]
# Forms of what is not a token attention, each a function of a file here that rewrites a graph in place, in this order.
IN_PLACE: tuple[Callable[[onnx.ModelProto], object], ...] = (halve_single_heads, move_heads_once)
MANY_CHANNELS = 16  # from here on a window varies mostly between channels, and E[u²] − μ² does not cancel


@dataclass(frozen=True)
class Rewritten:
    """The modules whose token attention was rewritten, and the others with the reason why not."""

    modules: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def few_kernels(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Rewritten]:
    """A copy of an FP32 graph, which may have Q/DQ, with its token attentions rewritten where they are as `models` has them.

    Nodes outside keep their names; the new ones have the module and class of those that they replace.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    done, skipped = list[str](), list[tuple[str, str]]()
    for module, kind in token_attentions(copy):
        try:
            soft_split = read_soft_split(copy, module)
            performer = read_performer(copy, soft_split) if kind == "TokenPerformer" else None
        except Unrecognised as reason:
            skipped.append((module, str(reason)))
            continue
        _rewrite(copy, soft_split, performer)
        done.append(module)
    for form in IN_PLACE:
        form(copy)
    del copy.graph.value_info[:]
    onnx.checker.check_model(copy, full_check=True)
    return copy, Rewritten(tuple(done), tuple(skipped))


def _rewrite(proto: onnx.ModelProto, soft_split: SoftSplit, performer: Performer | None) -> None:
    writer = NodeWriter(proto, soft_split.nodes[0], "few")
    if performer is None:
        write_soft_split(writer, soft_split)
        writer.replace(soft_split.nodes)
        return
    ones = replace(
        soft_split,
        inner=np.concatenate((soft_split.inner, np.zeros_like(soft_split.inner[:1]))),
        between=np.concatenate((soft_split.between, np.zeros_like(soft_split.between[:1]))),
        bias=np.append(soft_split.bias, 1.0),
    )
    write_soft_split(writer, ones)
    write_performer(writer, performer, soft_split.tokens)
    writer.replace((*soft_split.nodes, *performer.nodes))


def path_weights(kernel: int) -> Floats:
    """(k², 2, k, k): each pixel of a window minus the middle one, as a sum of steps to the right and steps down.

    Channel 0 at (i, j) is pixel (i, j+1) minus (i, j), channel 1 is (i+1, j) minus (i, j). Weights are 0, 1 and −1: where
    an image is flat, every sum is exactly 0 in any float format.
    """
    middle = kernel // 2
    weights = np.zeros((kernel, kernel, 2, kernel, kernel))
    for row in range(kernel):
        for column in range(kernel):
            weights[row, column, 0, row, middle:column] = 1
            weights[row, column, 0, row, column:middle] = -1
            weights[row, column, 1, middle:row, middle] = 1
            weights[row, column, 1, row:middle, middle] = -1
    return weights.reshape(kernel * kernel, 2, kernel, kernel)


def few_channel_weights(inner: Floats, between: Floats) -> Floats:
    """From W'' (out, C, k, k) and its sums over channels (out, k²): (out + 1 + k², C + 3, k, k).

    Inputs are the C channels minus their mean, their variance, and the steps of the mean to the right and down; outputs
    the projected values, the mean of the variance over the window, and r, the k² pixels minus the middle one.
    """
    out, channels, kernel, _ = inner.shape
    paths = path_weights(kernel)
    weight = np.zeros((out + 1 + kernel * kernel, channels + 3, kernel, kernel))
    weight[:out, :channels] = inner
    weight[:out, channels + 1 :] = np.einsum("oi,idhw->odhw", between, paths)
    weight[out, channels] = 1 / kernel**2
    weight[out + 1 :, channels + 1 :] = paths
    return weight


def many_channel_weights(inner: Floats, between: Floats) -> Floats:
    """The same for many channels: (out + 2, C + 2, k, k).

    Inputs are the channels minus their mean, their mean square, and their mean; outputs the projected values, E[u²] and μ.
    """
    out, channels, kernel, _ = inner.shape
    weight = np.zeros((out + 2, channels + 2, kernel, kernel))
    weight[:out, :channels] = inner
    weight[:out, channels + 1] = between.reshape(out, kernel, kernel)
    weight[out, channels] = weight[out + 1, channels + 1] = 1 / kernel**2
    return weight


def write_soft_split(writer: NodeWriter, of: SoftSplit) -> None:
    """LayerNorm and Linear of the windows, (B, C, H, W) → (B, T, out)."""
    out, channels = of.inner.shape[:2]
    few = channels < MANY_CHANNELS
    if few:
        weight = few_channel_weights(of.inner, of.between)
        pads = (0, 0, of.padding, of.padding)
        x = writer.node("Pad", of.image, writer.integers(*pads, *pads))
    else:
        weight = many_channel_weights(of.inner, of.between)
        x = of.image
    mean = writer.mean(x, 1)
    inner = writer.node("Sub", x, mean)
    square = writer.mean(writer.node("Mul", inner, inner), 1) if few else _mean_square(writer, x, channels)
    levels = [_steps(writer, mean, 3), _steps(writer, mean, 2)] if few else [mean]
    joined = writer.node("Concat", inner, square, *levels, axis=1)
    padding = 0 if few else of.padding
    z = writer.node("Conv", joined, writer.floats(weight), strides=[of.stride] * 2, pads=[padding] * 4)
    z = writer.node("Reshape", z, writer.integers(-1, len(weight), of.tokens))
    z = writer.node("Transpose", z, perm=[0, 2, 1])  # B T out+…
    y, second, first = writer.split(z, out, 1, len(weight) - out - 1)
    if few:
        second = writer.node("Add", second, writer.mean(writer.node("Mul", first, first), 2))
        first = writer.mean(first, 2)
    variance = writer.node("Sub", second, writer.node("Mul", first, first))
    deviation = writer.node("Sqrt", writer.node("Add", variance, writer.floats(of.eps)))
    y = writer.node("Mul", y, writer.node("Reciprocal", deviation))
    writer.node("Add", y, writer.floats(of.bias), output=of.result)


def _mean_square(writer: NodeWriter, x: str, channels: int) -> str:
    """Σ x·(x/C) over axis 1. Squares themselves leave FP16 where |x| is over 256, and would be kept in FP32 from 22 on."""
    share = writer.node("Mul", x, writer.floats(1 / channels))
    return writer.node("ReduceSum", writer.node("Mul", x, share), writer.integers(1), keepdims=1)


def _steps(writer: NodeWriter, mean: str, axis: int) -> str:
    """Each pixel's next one along `axis` minus itself, as large as the map: the last one is 0."""
    end = int(np.iinfo(np.int64).max)
    after = writer.node("Slice", mean, writer.integers(1), writer.integers(end), writer.integers(axis))
    before = writer.node("Slice", mean, writer.integers(0), writer.integers(-1), writer.integers(axis))
    pads = [0] * 8
    pads[4 + axis] = 1
    return writer.node("Pad", writer.node("Sub", after, before), writer.integers(*pads))


def write_performer(writer: NodeWriter, of: Performer, tokens: int) -> None:
    """φ(q)·(Σφ(k)vᵀ) / (φ(q)·Σφ(k) + ε) with φ(x) = exp(wx − |x|²/2); the 1 behind v makes the normaliser."""
    width = len(of.features)
    both, values = writer.split(of.source, 2 * width, width + 1)
    writer.split(values, width, 1, names=[of.value_output])
    both = writer.node("Reshape", both, writer.integers(-1, tokens, 2, width))  # B T 2 D
    norm = writer.node("ReduceSum", writer.node("Mul", both, both), writer.integers(-1), keepdims=1)
    exponent = writer.node("MatMul", both, writer.floats(of.features))  # B T 2 m
    feature = writer.node("Exp", writer.node("Sub", exponent, writer.node("Mul", norm, writer.floats(0.5))))
    key = writer.node("Gather", feature, writer.index(0), axis=2)  # B T m
    query = writer.node("Gather", feature, writer.index(1), axis=2)
    context = writer.node("MatMul", writer.node("Transpose", key, perm=[0, 2, 1]), values)  # B m D+1
    sums, normaliser = writer.split(writer.node("MatMul", query, context), width, 1)
    writer.node("Div", sums, writer.node("Add", normaliser, writer.floats(of.epsilon)), output=of.output)
