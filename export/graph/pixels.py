"""A map with its channels last, (B, H, W, C), from the nodes that put them first."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graph.node_writer import NodeWriter

CHANNELS_FIRST = [0, 3, 1, 2]
_TOKENS_FIRST = [0, 2, 1]


@dataclass(frozen=True)
class Pixels:
    """Where a map comes from: `source` is (B, H, W, C), or (B, H·W, C), or the map itself, (B, C, H, W), where `transposed`.

    (source − mean) · scale are its values, both (C,), where it is an image that is normalised; without a scale, source − mean.
    """

    source: str
    transposed: bool = False
    mean: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None


def read_pixels(proto: onnx.ModelProto, image: str) -> Pixels:
    """The map `image` before its channels were put first: tokens that were made a map of, or the network's normalised input."""
    maker = {name: node for node in proto.graph.node for name in node.output}
    constants = {value.name: value for value in proto.graph.initializer}

    def made(name: str, operator: str) -> onnx.NodeProto | None:
        node = maker.get(name)
        return node if node is not None and node.op_type == operator else None

    reshape = made(image, "Reshape")
    tokens = made(reshape.input[0], "Transpose") if reshape is not None else None
    if tokens is not None and _perm(tokens) == _TOKENS_FIRST:
        return Pixels(tokens.input[0])
    scaled = made(image, "Mul")
    centred = made(scaled.input[0] if scaled is not None else image, "Sub")
    first = made(centred.input[0], "Transpose") if centred is not None else None
    if centred is None or first is None or _perm(first) != CHANNELS_FIRST:
        return Pixels(image, transposed=True)
    given = [constants.get(node.input[1]) for node in (centred, scaled) if node is not None]
    shapes = [list(value.dims) if value is not None else [] for value in given]
    if any(len(shape) != 4 or shape[1] == 1 or shape != [1, shapes[0][1], 1, 1] for shape in shapes):
        return Pixels(image, transposed=True)
    mean, *scale = (numpy_helper.to_array(value).astype(np.float64).reshape(-1) for value in given if value is not None)
    return Pixels(first.input[0], mean=mean, scale=scale[0] if scale else None)


def _perm(node: onnx.NodeProto) -> list[int]:
    return list(next(attribute.ints for attribute in node.attribute if attribute.name == "perm"))


def write_pixels(writer: NodeWriter, of: Pixels, channels: int, height: int, width: int) -> str:
    """The map, (B, H, W, C). It is normalised by rows, (B, H, W·C): three channels alone are too short for vectors."""
    if of.transposed:
        return writer.node("Transpose", of.source, perm=[0, 2, 3, 1])
    x = of.source
    if of.mean is not None:
        x = writer.node("Reshape", x, writer.integers(-1, height, width * channels))
        x = writer.node("Sub", x, writer.floats(np.tile(of.mean, width)))
    if of.scale is not None:
        x = writer.node("Mul", x, writer.floats(np.tile(of.scale, width)))
    return writer.node("Reshape", x, writer.integers(-1, height, width, channels))
