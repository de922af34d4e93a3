"""The TorchScript exporter, and its graph made like the other exporter's: same module names, no arithmetic on shapes.

A trace holds whatever path the network took with the example. So the graph is run with another batch size, and compared
with the network, before it is taken.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from export.padding import keep_padding
from export.runner import INPUT, OUTPUT
from export.same_logits import compute

SCOPES_KEY, CLASSES_KEY = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"  # the other exporter's names
_BATCHES = (2, 3)  # the example's, and another
_BATCH = -1  # in a shape: what is left


def export_torchscript(network: nn.Module, images: Tensor, opset: int) -> onnx.ModelProto:
    """The graph of `network` (uint8 (B, H, W, 3) → logits; eval mode). ValueError where it holds for the example's batch only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            network, (images,), path, dynamo=False, opset_version=opset, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,  # of a network in eval mode: the same, with its BatchNorm nodes
        )  # fmt: skip
        proto = onnx.load(path)
    _constants_to_initializers(proto)
    keep_padding(proto)
    _settle_shapes(proto, network, tuple(images.shape[1:]))
    for node in proto.graph.node:
        scopes, classes = find_scopes(node.name, network)
        operator = node.op_type.lower()
        node.metadata_props.add(key=SCOPES_KEY, value=str([*scopes, operator]))
        node.metadata_props.add(key=CLASSES_KEY, value=str([*classes, operator]))
    return proto


def find_scopes(node_name: str, network: nn.Module) -> tuple[list[str], list[str]]:
    """The modules that a node's name goes through, outermost first, and their classes.

    A name is `/model/layer1/layer1.0/conv1/Conv_1`. Each part is a module's path from the module before it, or from one
    further out: `layer1.0` is `model.layer1.0`.
    """
    scopes = [""]
    known = dict(network.named_modules())
    for part in node_name.split("/")[1:-1]:
        around = scopes[-1]
        while (found := f"{around}.{part}" if around else part) not in known and around:
            around = around.rpartition(".")[0]
        if found not in known:
            break
        scopes.append(found)
    return scopes, [type(known[scope]).__name__ for scope in scopes]


def _constants_to_initializers(proto: onnx.ModelProto) -> None:
    """Constant nodes, and the Identity nodes by which two layers share one tensor, become initializers of their own."""
    graph = proto.graph
    values = {initializer.name: initializer for initializer in graph.initializer}
    kept = []
    for node in graph.node:
        made = None
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            made = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in values:
            made = values[node.input[0]]
        if made is None:
            kept.append(node)
            continue
        copy = onnx.TensorProto()
        copy.CopyFrom(made)
        copy.name = node.output[0]
        values[copy.name] = copy
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    initializers = [value for name, value in values.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def _settle_shapes(proto: onnx.ModelProto, network: nn.Module, image: tuple[int, ...]) -> None:
    """Write down what is computed from tensors' shapes, where it is the same for any batch; the batch itself becomes −1.

    The exporter writes that arithmetic out, which hides the layers that it stands between. It is run for two batch sizes.
    """
    names = _from_shapes(proto)
    reshapes = [node for node in proto.graph.node if node.op_type == "Reshape" and node.input[1] in names]
    tapped = list(dict.fromkeys([*names, *(node.output[0] for node in reshapes)]))
    runs = [compute(proto, network, batch, image, tapped) for batch in _BATCHES]
    for node in reshapes:
        one, other = (np.array(found[node.output[0]].shape, np.int64) for found in runs)
        if len(one) == len(other) and (one != other).sum() <= 1:
            name = f"{node.output[0]}_shape"
            proto.graph.initializer.append(numpy_helper.from_array(np.where(one == other, one, _BATCH), name))
            node.input[1] = name
    for name in names:
        first, second = (found[name] for found in runs)
        if np.array_equal(first, second):
            _free(proto, name)
            proto.graph.initializer.append(numpy_helper.from_array(first, name))
        elif (place := _place_of_the_batch(first, second)) is not None:
            _free(proto, name)
            _write_shape(proto, name, first, place)
    _drop_unused(proto)


def _from_shapes(proto: onnx.ModelProto) -> list[str]:
    """The tensors that depend on the images through their shapes alone, and that something else takes."""
    fixed = {initializer.name for initializer in proto.graph.initializer} | {""}
    derived: set[str] = set()
    taken: dict[str, None] = {}
    for node in proto.graph.node:
        plain = not any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)
        plain = plain and node.op_type not in ("Expand", "Tile")  # values of the network, repeated for each image
        if node.op_type == "Shape" or (plain and set(node.input) <= fixed | derived and node.input):
            derived |= set(node.output)
        else:
            taken |= dict.fromkeys(name for name in node.input if name in derived)
    return list(taken)


def _place_of_the_batch(first: NDArray[np.generic], second: NDArray[np.generic]) -> int | None:
    """Where two shapes differ, if only there, and it is the number of images."""
    if first.ndim != 1 or first.shape != second.shape:
        return None
    places = np.flatnonzero(first != second)
    return int(places[0]) if len(places) == 1 and (first[places[0]], second[places[0]]) == _BATCHES else None


def _free(proto: onnx.ModelProto, name: str) -> None:
    """Let the node that makes `name` make something of another name."""
    for node in proto.graph.node:
        for place, output in enumerate(node.output):
            if output == name:
                node.output[place] = f"{name}_computed"


def _write_shape(proto: onnx.ModelProto, name: str, value: NDArray[np.generic], place: int) -> None:
    """Make the shape `value` with the number of images at `place`, such as a class token's for each image."""
    parts = {"before": value[:place], "after": value[place + 1 :]}
    for part, numbers in parts.items():
        proto.graph.initializer.append(numpy_helper.from_array(numbers.astype(np.int64), f"{name}_{part}"))
    batch = helper.make_node("Shape", [INPUT], [f"{name}_batch"], f"{name}_batch", start=0, end=1)
    whole = helper.make_node(
        "Concat", [f"{name}_before", f"{name}_batch", f"{name}_after"], [name], f"{name}_shape", axis=0
    )
    for node in (whole, batch):
        proto.graph.node.insert(0, node)


def _drop_unused(proto: onnx.ModelProto) -> None:
    """Remove the nodes, and then the initializers, that nothing uses any more."""
    graph = proto.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            needed |= {name for attribute in node.attribute for inner in attribute.g.node for name in inner.input}
            kept.append(node)
    initializers = [initializer for initializer in graph.initializer if initializer.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)
