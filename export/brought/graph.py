"""A brought network as `export.onnx_export` would have written it: uint8 NHWC in, normalisation in the graph, logits out."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper, version_converter

from calib.errors import InputError
from calib.preprocess import LUMA, Preprocess
from export.brought.interface import Interface
from export.onnx_export import (
    CLASS_KEY,
    DEFAULT_TASK,
    INPUT,
    MODULE_KEY,
    OUTPUT,
    NormalisedModel,
    describe,
    name_nodes,
)
from export.padding import keep_padding

LATEST_OPSET = 22  # that a recipe can ask for
_IR_VERSION = 10  # which ONNX Runtime, OpenVINO and TensorRT of the time of opset 20 read
_PREFIX = "network/"  # of the brought network's tensors, so that none is called as ours are


def with_our_input(
    proto: onnx.ModelProto, of: Interface, spec: Preprocess, classes: Sequence[str], opset: int, task: str = DEFAULT_TASK
) -> onnx.ModelProto:  # fmt: skip
    """A graph that computes `of.logits` from uint8 images (N, H, W, 3), its nodes named, its metadata as every stage reads it.

    A network of an older opset than `opset` is converted. InputError where that fails, or its opset is newer than any here.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    _keep_modules(made)
    _keep_only(made, of.logits)
    made = compose.add_prefix(_converted(made, opset), _PREFIX, rename_nodes=False)
    front = _front(f"{_PREFIX}{of.input}", of, spec)
    nodes = [*front, *made.graph.node]
    del made.graph.node[:], made.graph.input[:], made.graph.output[:], made.graph.value_info[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(_constants(spec))
    _rename(made, f"{_PREFIX}{of.logits}", OUTPUT)
    if of.layout == "uint8 NHWC":
        _rename(made, f"{_PREFIX}{of.input}", INPUT)
    used = {name for node in _all_nodes(made.graph) for name in node.input}
    kept = [tensor for tensor in made.graph.initializer if tensor.name in used]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    batch = of.batch or "batch"
    image = (batch, spec.height, spec.width, 3)
    made.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, image))
    made.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (batch, len(classes), *of.sides)))
    made.ir_version = _IR_VERSION
    del made.metadata_props[:]
    describe(made, spec, classes, task)
    name_nodes(made)
    keep_padding(made)
    onnx.checker.check_model(made, full_check=True)
    return made


def _converted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """`proto` in `opset`, or in its own where that is newer."""
    own = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if own > LATEST_OPSET:
        raise InputError(
            "this ONNX file is newer than what the stages know", got=f"opset {own}", allowed=f"up to {LATEST_OPSET}",
            next_step=f"export the network again with opset {opset}",
        )  # fmt: skip
    if own >= opset:
        return proto
    metadata = {node.name: list(node.metadata_props) for node in proto.graph.node if node.name}
    try:
        converted = version_converter.convert_version(proto, opset)
    except Exception as error:  # the converter raises RuntimeError, ValueError or what its C++ code throws
        raise InputError(
            "this ONNX file is old, and cannot be converted", got=f"opset {own}: {str(error).strip().splitlines()[0]}",
            allowed=f"opset {opset} (export.opset), or what onnx.version_converter takes there",
            next_step=f"export the network again with opset {opset}",
        ) from error  # fmt: skip
    for node in converted.graph.node:  # the converter drops it, and keeps names
        del node.metadata_props[:]
        node.metadata_props.extend(metadata.get(node.name, ()))
    return converted


def _front(target: str, of: Interface, spec: Preprocess) -> list[onnx.NodeProto]:
    """From uint8 images to what the network takes, as `NormalisedModel` does it; nothing for one that takes them as they are."""
    if of.layout == "uint8 NHWC":
        return []
    nodes = [
        helper.make_node("Cast", [INPUT], ["front/float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["front/float"], ["front/planes"], perm=[0, 3, 1, 2]),
    ]
    planes = "front/planes"
    if spec.grey:
        nodes += [
            helper.make_node("Mul", [planes, "front/luma"], ["front/weighted"]),
            helper.make_node("ReduceSum", ["front/weighted", "front/axes"], ["front/grey"], keepdims=1),
        ]
        planes = "front/grey"
    nodes.append(helper.make_node("Sub", [planes, "front/mean"], ["front/centred"]))
    last = target if of.layout == "NCHW" else "front/normalised"
    nodes.append(helper.make_node("Mul", ["front/centred", "front/inverse_std"], [last]))
    if of.layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [last], [target], perm=[0, 2, 3, 1]))
    for node in nodes:
        node.metadata_props.add(key=MODULE_KEY, value="")
        node.metadata_props.add(key=CLASS_KEY, value=NormalisedModel.__name__)
    return nodes


def _constants(spec: Preprocess) -> list[TensorProto]:
    """Those of `_front`, in float32 as PyTorch computes them."""
    shape = (1, -1, 1, 1)
    values = {
        "front/mean": (np.asarray(spec.mean, np.float32) * np.float32(255)).reshape(shape),
        "front/inverse_std": (1 / (np.asarray(spec.std, np.float32) * np.float32(255))).reshape(shape),
        "front/luma": np.asarray(LUMA, np.float32).reshape(shape), "front/axes": np.array([1]),
    }  # fmt: skip
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _keep_modules(proto: onnx.ModelProto) -> None:
    """Note the module of each node, where PyTorch's exporters left it: in metadata, or as `/blocks/blocks.0/attn/qkv/MatMul`."""
    for node in proto.graph.node:
        told = {prop.key for prop in node.metadata_props}
        scopes = [part for part in node.name.split("/")[:-1] if part]
        if not scopes or "pkg.torch.onnx.name_scopes" in told or MODULE_KEY in told:
            continue
        parts = [
            part for part, deeper in zip(scopes, [*scopes[1:], ""], strict=True) if not deeper.startswith(f"{part}.")
        ]
        node.metadata_props.add(key=MODULE_KEY, value=".".join(parts))


def _keep_only(proto: onnx.ModelProto, tensor: str) -> None:
    """Leave out what `tensor` is not made of, and make it the only output."""
    maker = {name: node for node in proto.graph.node for name in node.output}
    needed, todo = set[int](), [tensor]
    while todo:
        node = maker.get(todo.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            todo += [name for one in (node, *_inside(node)) for name in one.input]
    nodes = [node for node in proto.graph.node if id(node) in needed]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:], proto.graph.output[:]
    proto.graph.node.extend(kept)
    proto.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))


def _rename(proto: onnx.ModelProto, old: str, new: str) -> None:
    for node in _all_nodes(proto.graph):
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        yield from _inside(node)


def _inside(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes in the branches and bodies of an If, a Loop or a Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from _all_nodes(attribute.g)
