"""Write the token performers of a graph in the form that gives TensorRT the fewest kernels, with the same result.

A GPU pays for each kernel it starts, a CPU for each product, so only graphs for GPUs are rewritten. docs/tensorrt-graph.md
derives the form: all that a soft split needs comes out of one convolution, both exponents of the performer out of one
product, and its normaliser as one more column of its values. The exponentials are not shifted into FP16's range, as the
network's own form has them, because these nodes compute in FP32: `check_pins` holds that.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.onnx_export import CLASS_KEY, MODULE_KEY, node_metadata
from export.performer_nodes import Performer, Unrecognised, find_performers, read_performer

Floats = NDArray[np.float64]
MANY_CHANNELS = 16  # from here on a window's variance is mostly between channels, and E[u²] − μ² does not cancel


@dataclass(frozen=True)
class Rewritten:
    """The modules that were rewritten, and the others with the reason why not."""

    modules: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SplitWeights:
    """One convolution: `weight` (out, in, k, k) gives the projected values, what `rest` says, and `columns` of the latter."""

    weight: Floats
    columns: int


def few_kernels(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Rewritten]:
    """A copy of an FP32 graph with its token performers rewritten, where they are as `models` writes them.

    Nodes outside keep their names; the new ones have the module and class of the performer.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    done, skipped = list[str](), list[tuple[str, str]]()
    for module, division in find_performers(copy):
        try:
            performer = read_performer(copy, module, division)
        except Unrecognised as reason:
            skipped.append((module, str(reason)))
            continue
        _replace(copy, performer)
        done.append(module)
    del copy.graph.value_info[:]
    onnx.checker.check_model(copy, full_check=True)
    return copy, Rewritten(tuple(done), tuple(skipped))


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


def few_channel_weights(inner: Floats, between: Floats) -> SplitWeights:
    """From W'' (out, C, k, k) and its sums over channels (out, k²): the inputs are the C channels minus their mean, their
    variance, and the steps of the mean; the rest of the outputs are the windows' mean variance, and r (k² values)."""
    out, channels, kernel, _ = inner.shape
    area = kernel * kernel
    paths = path_weights(kernel)
    weight = np.zeros((out + 1 + area, channels + 3, kernel, kernel))
    weight[:out, :channels] = inner
    weight[:out, channels + 1 :] = np.einsum("oi,idhw->odhw", between, paths)
    weight[out, channels] = 1 / area
    weight[out + 1 :, channels + 1 :] = paths
    return SplitWeights(weight, 1 + area)


def many_channel_weights(inner: Floats, between: Floats) -> SplitWeights:
    """The same for many channels: the inputs are the channels minus their mean, their mean square and their mean; the
    rest of the outputs are the windows' E[u²] and μ."""
    out, channels, kernel, _ = inner.shape
    weight = np.zeros((out + 2, channels + 2, kernel, kernel))
    weight[:out, :channels] = inner
    weight[:out, channels + 1] = between.reshape(out, kernel, kernel)
    weight[out, channels] = weight[out + 1, channels + 1] = 1 / kernel**2
    return SplitWeights(weight, 2)


def _replace(proto: onnx.ModelProto, performer: Performer) -> None:
    writer = _Writer(proto, performer)
    y = _split_norm_project(writer, performer)
    _attend(writer, performer, y)
    removed = set(performer.nodes)
    place = next(index for index, node in enumerate(proto.graph.node) if node.name in removed)
    kept = [node for node in proto.graph.node if node.name not in removed]
    del proto.graph.node[:]
    proto.graph.node.extend([*kept[:place], *writer.nodes, *kept[place:]])
    used = {name for node in proto.graph.node for name in node.input} | {value.name for value in proto.graph.output}
    constants = [value for value in proto.graph.initializer if value.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(constants)


def _split_norm_project(writer: "_Writer", of: Performer) -> str:
    """LayerNorm and Linear of the windows, and a last channel that is 1: (B, C, H, W) → (B, T, out + 1)."""
    out, channels = of.inner.shape[:2]
    inner, between = (np.concatenate((part, np.zeros_like(part[:1]))) for part in (of.inner, of.between))
    if channels < MANY_CHANNELS:
        weights = few_channel_weights(inner, between)
        x = writer.node("Pad", of.image, writer.integers(0, 0, of.padding, of.padding, 0, 0, of.padding, of.padding))
        mean, centred = _centre(writer, x)
        square = writer.mean(writer.node("Mul", centred, centred), 1)
        parts = [centred, square, _steps(writer, mean, 3), _steps(writer, mean, 2)]
        padding = 0
    else:
        weights = many_channel_weights(inner, between)
        mean, centred = _centre(writer, of.image)
        parts = [centred, writer.mean(writer.node("Mul", of.image, of.image), 1), mean]
        padding = of.padding
    joined = writer.node("Concat", *parts, axis=1)
    z = writer.node(
        "Conv", joined, writer.floats(weights.weight), strides=[of.stride] * 2, pads=[padding] * 4
    )  # B out+1+rest h w
    z = writer.node("Reshape", z, writer.integers(-1, out + 1 + weights.columns, of.tokens))
    z = writer.node("Transpose", z, perm=[0, 2, 1])  # B T out+1+rest
    if channels < MANY_CHANNELS:
        y, within, r = writer.split(z, out + 1, 1, weights.columns - 1)
        level = writer.mean(r, 2)
        between_pixels = writer.node("Sub", writer.mean(writer.node("Mul", r, r), 2), writer.node("Mul", level, level))
        variance = writer.node("Add", within, between_pixels)
    else:
        y, square, level = writer.split(z, out + 1, 1, 1)
        variance = writer.node("Sub", square, writer.node("Mul", level, level))
    deviation = writer.node("Sqrt", writer.node("Add", variance, writer.floats(of.eps)))
    y = writer.node("Mul", y, writer.node("Reciprocal", deviation))
    return writer.node("Add", y, writer.floats(np.append(of.bias, 1.0)))


def _centre(writer: "_Writer", x: str) -> tuple[str, str]:
    mean = writer.mean(x, 1)
    return mean, writer.node("Sub", x, mean)


def _steps(writer: "_Writer", mean: str, axis: int) -> str:
    """Each pixel's next one along `axis` minus itself, as large as the map: the last one is 0."""
    end = np.iinfo(np.int64).max
    after = writer.node("Slice", mean, writer.integers(1), writer.integers(end), writer.integers(axis))
    before = writer.node("Slice", mean, writer.integers(0), writer.integers(-1), writer.integers(axis))
    pads = [0] * 8
    pads[4 + axis] = 1
    return writer.node("Pad", writer.node("Sub", after, before), writer.integers(*pads))


def _attend(writer: "_Writer", of: Performer, y: str) -> None:
    """φ(q)·(Σφ(k)vᵀ) / (φ(q)·Σφ(k) + ε) with φ(x) = exp(wx − |x|²/2); the 1 behind v makes the normaliser."""
    width = of.width
    both, values = writer.split(y, 2 * width, width + 1)
    writer.split(values, width, 1, names=[of.value_output, writer.fresh()])
    both = writer.node("Reshape", both, writer.integers(-1, of.tokens, 2, width))  # B T 2 D
    norm = writer.node("ReduceSum", writer.node("Mul", both, both), writer.integers(-1), keepdims=1)
    exponent = writer.node("MatMul", both, writer.floats(of.features))  # B T 2 m
    feature = writer.node("Exp", writer.node("Sub", exponent, writer.node("Mul", norm, writer.floats(0.5))))
    key = writer.node("Gather", feature, writer.index(0), axis=2)
    query = writer.node("Gather", feature, writer.index(1), axis=2)
    context = writer.node("MatMul", writer.node("Transpose", key, perm=[0, 2, 1]), values)  # B m D+1
    sums, normaliser = writer.split(writer.node("MatMul", query, context), width, 1)
    writer.node("Div", sums, writer.node("Add", normaliser, writer.floats(of.epsilon)), output=of.output)


class _Writer:
    """Nodes of one performer, in order, and their constants in the graph."""

    def __init__(self, proto: onnx.ModelProto, performer: Performer):
        self.nodes: list[onnx.NodeProto] = []
        self._graph = proto.graph
        self._prefix = performer.nodes[0]
        self._metadata = next(
            {key: node_metadata(node, key) for key in (MODULE_KEY, CLASS_KEY)}
            for node in proto.graph.node
            if node.name == performer.division
        )

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Append a node and name its output."""
        return self._append(operator, inputs, [output or self.fresh()], attributes)[0]

    def split(self, source: str, *sizes: int, names: list[str] | None = None) -> list[str]:
        """Parts of the last axis."""
        names = names or [self.fresh(part) for part in range(len(sizes))]
        return self._append("Split", (source, self.integers(*sizes)), names, {"axis": -1})

    def mean(self, source: str, axis: int) -> str:
        """The mean over one axis, which stays with size 1."""
        return self.node("ReduceMean", source, self.integers(axis), keepdims=1)

    def floats(self, values: Floats | float) -> str:
        """A constant in float32."""
        return self._constant(np.asarray(values, dtype=np.float32))

    def integers(self, *values: int) -> str:
        """A one-dimensional constant in int64."""
        return self._constant(np.asarray(values, dtype=np.int64))

    def index(self, value: int) -> str:
        """A scalar constant in int64."""
        return self._constant(np.asarray(value, dtype=np.int64))

    def fresh(self, part: int = 0) -> str:
        """A tensor name that the graph does not have."""
        return f"{self._prefix}_few_{len(self.nodes):02d}_{part}"

    def _append(self, operator: str, inputs: tuple[str, ...], outputs: list[str], attributes: dict[str, object]) -> list[str]:  # fmt: skip  # noqa: E501
        node = helper.make_node(operator, list(inputs), outputs, f"{self._prefix}_few_{len(self.nodes):02d}", **attributes)
        for key, value in self._metadata.items():
            node.metadata_props.add(key=key, value=value)
        self.nodes.append(node)
        return outputs

    def _constant(self, values: NDArray[np.generic]) -> str:
        name = f"{self._prefix}_few_constant_{len(self._graph.initializer):05d}"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name
