"""Look inside a graph: find what its blocks hand on, and write a copy that gives these tensors as further outputs.

Blocks are found by the module paths that the export left on the FP32 graph's nodes. Tools that quantize or cast drop
them and may rename tensors, but keep the names of nodes: that is how the same tensor is found in their graphs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from calib.precision.channels import find_layout, largest_grid
from export.graph.layers import read_layers, tensor_types

TOKENIZER = "Tokenizer"  # what the class of a module that makes visual tokens ends with
_ATTENTION = " (attention)"

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Tap:
    """One tensor: the module it comes from, its node and which of the node's outputs; `shape` is without the batch.

    `aspect` is the height of the network's images over their width.
    """

    name: str
    node: str
    output: int
    shape: tuple[int, ...]
    aspect: float = 1.0


@dataclass(frozen=True)
class TokenAttention:
    """A softmax that makes visual tokens out of a map (arXiv 2006.03677): `grid` is its rows and columns, `pixel_axis` 1 or 2."""

    tap: Tap
    pixel_axis: int
    grid: tuple[int, int]

    @property
    def name(self) -> str:
        """The module that makes the tokens. The tap has another name: what this module hands on may be tapped as well."""
        return self.tap.name.removesuffix(_ATTENTION)

    @property
    def tokens(self) -> int:
        """How many tokens attend."""
        return self.tap.shape[2 - self.pixel_axis]


def find_blocks(proto: onnx.ModelProto) -> tuple[list[Tap], dict[str, str]]:
    """The output of every block of an FP32 graph, in graph order; and why the blocks that are not there were left out.

    A block is a numbered module, such as `blocks.3`, one level deeper where stages hold them (`layer2.1`,
    `stages.1.blocks.0`), or a top-level module without such. Its output is the last tensor made in it and used outside.
    A graph with fewer than three (VGG) is taken layer by layer.
    """
    paths = [_path(layer.module) for layer in read_layers(proto)]
    composite = {path[:depth] for path in paths for depth in range(1, len(path))}
    blocks = [_block(path, composite) for path in paths]
    holders = {block[:depth] for block in blocks for depth in range(1, len(block))}
    taps, skipped = _taps(proto, [() if block in holders else block for block in blocks])
    if len(taps) >= 3:
        return taps, skipped
    return _taps(proto, paths)


def _path(module: str) -> Parts:
    """`blocks.0.mlp` in parts; () for the network itself, which the export calls `model`."""
    return tuple(module.split(".")) if module not in ("", "model") else ()


def _block(path: Parts, composite: set[Parts]) -> Parts:
    """The block that a module is in, () if none; `composite` are the modules that have modules inside.

    At most two numbers count, of a stage and of a block in it: what is numbered further inside is a part of the block.
    """
    numbered = (i for i, name in enumerate(path) if name[-1].isdigit() and path[: i + 1] in composite)
    stage = next(numbered, None)
    if stage is None:
        return path[:1] if path[:1] in composite else ()
    for depth in (stage + 1, stage + 2):  # `layer1.0` and `s1.b1`, or through a list: `stages.1.blocks.0`
        inner = path[: depth + 1]
        if len(inner) > depth and inner in composite:
            listed = inner[-1].isdigit()
            beside = depth == stage + 1 and inner[-1][-1].isdigit() and not path[stage].isdigit()
            if listed or beside:
                return inner
    return path[: stage + 1]


def _taps(proto: onnx.ModelProto, owners: Sequence[Parts]) -> tuple[list[Tap], dict[str, str]]:
    """The last tensor with a layout that each owner makes and others use; the reason for owners without one."""
    shapes, aspect = _float_shapes(proto), _aspect(proto)
    users: dict[str, set[Parts | None]] = {value.name: {None} for value in proto.graph.output}
    for node, owner in zip(proto.graph.node, owners, strict=True):
        for name in node.input:
            users.setdefault(name, set()).add(owner)
    found: dict[Parts, Tap] = {}
    skipped: dict[str, str] = {}
    for node, owner in zip(proto.graph.node, owners, strict=True):
        for index, name in enumerate(node.output):
            if not owner or name not in shapes or users.get(name, set()) <= {owner}:
                continue
            if find_layout(shapes[name], aspect) is None:
                skipped[".".join(owner)] = f"no maps in its output, {' × '.join(map(str, shapes[name]))}"
                continue
            found.pop(owner, None)  # so that the order is that of the last
            found[owner] = Tap(".".join(owner), node.name, index, shapes[name], aspect)
    return list(found.values()), {name: why for name, why in skipped.items() if tuple(name.split(".")) not in found}


def _float_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes without the batch of the floating-point tensors, as far as shape inference knows them."""
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes, batch = {}, proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    for info in (*graph.value_info, *graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16) and len(dims) > 1:
            shape = tuple(dim.dim_value for dim in dims[1:])
            if all(shape) and (dims[0].HasField("dim_param") or dims[0].dim_value == batch > 0):
                shapes[info.name] = shape
    return shapes


def find_token_attention(proto: onnx.ModelProto) -> list[TokenAttention]:
    """Every softmax made in a module whose class ends with `Tokenizer`, over the pixels of a map, in graph order.

    (B, HW, L) or (B, L, HW); where both could be the pixels, they are the axis that the softmax is over.
    """
    shapes, aspect = _float_shapes(proto), _aspect(proto)
    found = []
    for node, layer in zip(proto.graph.node, read_layers(proto), strict=True):
        shape = shapes.get(node.output[0], ()) if node.output else ()
        made = bool(layer.classes) and layer.classes[-1].endswith(TOKENIZER)
        if node.op_type != "Softmax" or not made or len(shape) != 2:
            continue
        over = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1) % 3
        pixels = next((axis for axis in (over, 3 - over) if axis in (1, 2) and _is_map(shape[axis - 1], aspect)), None)
        if pixels is not None:
            tap = Tap(f"{layer.module}{_ATTENTION}", node.name, 0, shape, aspect)
            found.append(TokenAttention(tap, pixels, largest_grid(shape[pixels - 1], aspect)))
    return found


def _is_map(size: int, aspect: float) -> bool:
    return size > 1 and math.prod(largest_grid(size, aspect)) == size


def _aspect(proto: onnx.ModelProto) -> float:
    """Height over width of the images (N, H, W, 3) that the graph takes; 1 where it takes something else."""
    sizes = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    return sizes[1] / sizes[2] if len(sizes) == 4 and all(sizes[1:]) else 1.0


def write_tapped(source: Path, target: Path, taps: Sequence[Tap]) -> dict[str, str]:
    """Write a copy of the graph `source` to `target` that also gives the tensors of `taps`, as float32 outputs.

    Returns the output's name for each tap's name; a tap whose node is gone from this graph is not in it.
    """
    proto = onnx.load(source)
    types = tensor_types(proto)
    nodes = {node.name: node for node in proto.graph.node}
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    names: dict[str, str] = {}
    for tap in taps:
        node = nodes.get(tap.node)
        if node is None or tap.output >= len(node.output):
            continue
        name = node.output[tap.output]
        if types[name] != TensorProto.FLOAT:
            proto.graph.node.append(
                helper.make_node("Cast", [name], [f"{name}_float32"], f"{tap.node}_float32", to=TensorProto.FLOAT)
            )
            name = f"{name}_float32"
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *tap.shape]))
        names[tap.name] = name
    known = [info for info in proto.graph.value_info if info.name not in names.values()]
    del proto.graph.value_info[:]  # a tensor is described once: as an output, or here
    proto.graph.value_info.extend(known)
    onnx.checker.check_model(proto)
    onnx.save(proto, target)
    return names
