"""PyTorch → ONNX: uint8 NHWC RGB in, normalisation in the graph, logits out, batch free, every node named.

The graph carries what a later stage must not guess: the preprocessing spec, the class names, the task where it is not
classification, and on every node the module it came from (`MODULE_KEY`, `CLASS_KEY` in its metadata).
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from calib.errors import InputError
from calib.preprocess import LUMA, Preprocess
from export.explain import find_culprit
from export.quiet import quiet
from export.runner import DEFAULT_TASK as DEFAULT_TASK
from export.runner import FP32_TENSORS as FP32_TENSORS
from export.runner import INPUT as INPUT
from export.runner import OUTPUT as OUTPUT
from export.unfold import replace_unfolds
from export.ways import SAYS, Exported, NoWay, write_graph

MODULE_KEY, CLASS_KEY = "t2t_edge.module", "t2t_edge.class"
PREPROCESS_KEY, CLASSES_KEY, TASK_KEY = "t2t_edge.preprocess", "t2t_edge.classes", "t2t_edge.task"


class NormalisedModel(nn.Module):
    """uint8 images (B, H, W, 3) → logits. Cast comes before Transpose: TensorRT does not transpose uint8.

    Mean and std are (1, C, 1, 1) tensors, never scalars: OpenVINO 2026.4.1 miscompiles scalars once a Q/DQ is there. A grey
    level is a product and a sum, no convolution, which would be quantized.
    """

    mean: Tensor
    inverse_std: Tensor
    luma: Tensor | None

    def __init__(self, model: nn.Module, spec: Preprocess):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("inverse_std", 1 / (torch.tensor(spec.std).view(1, -1, 1, 1) * 255))
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1) if spec.grey else None)

    def forward(self, images: Tensor) -> Tensor:
        # contiguous: PyTorch pools a channels-last map to one pixel with as_strided, in ONNX a Gather of computed indices
        x = images.to(self.mean.dtype).permute(0, 3, 1, 2).contiguous()
        if self.luma is not None:
            x = (x * self.luma).sum(1, keepdim=True)
        return self.model((x - self.mean) * self.inverse_std)


def export_onnx(
    model: nn.Module, spec: Preprocess, classes: Sequence[str], path: Path, *, opset: int = 20, task: str = DEFAULT_TASK
) -> Exported:  # fmt: skip
    """Write `model` (normalised NCHW float → logits) to `path`; returns the way taken and the `nn.Unfold`s replaced."""
    model = model.eval()
    example = torch.zeros(2, spec.channels, spec.height, spec.width)
    model, replaced = replace_unfolds(model, example)
    images = torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8)
    try:
        proto, exported = write_graph(NormalisedModel(model, spec).eval(), images, opset)
    except NoWay as error:
        raise _refused(model, example, error) from error.first
    if proto.opset_import[0].version != opset:
        raise RuntimeError(f"the exporter wrote opset {proto.opset_import[0].version}, {opset} was asked for")
    name_nodes(proto)
    describe(proto, spec, classes, task)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return replace(exported, unfolds=tuple(replaced))


def _refused(model: nn.Module, example: Tensor, error: NoWay) -> InputError:
    """Says which module of `model` the exporter refuses, and why, and why the other ways did not do either."""
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        name, module, reason = find_culprit(model, example)
    where = f"its module {name} ({type(module).__name__})" if name else f"the whole of {type(module).__name__}"
    first, *others = error.failed
    also = "".join(f"; {SAYS[way]}: {error.failed[way]}" for way in others)
    return InputError(
        "the model cannot be exported to ONNX", got=f"{where}: {reason if name else error.failed[first]}{also}",
        allowed="tensor operations without Python decisions on their values, for any batch size",
        next_step="rewrite that module's forward; T2T_EDGE_TRACEBACK=1 with the same command shows where it stops",
    )  # fmt: skip


def name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a unique name of fixed width (`node_00042`), and its module and class in its metadata.

    Fixed width, because tools that exclude nodes by prefix would take `node_1` for `node_12` too.
    """
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index:05d}"
        props = {prop.key: prop.value for prop in node.metadata_props}
        scopes = _as_list(props.get("pkg.torch.onnx.name_scopes", "[]"))
        kinds = _as_list(props.get("pkg.torch.onnx.class_hierarchy", "[]"))
        module = props.get(MODULE_KEY) or next(
            (scope for scope in reversed(scopes[:-1]) if scope and scope[0] != "_"), ""
        )
        kind = props.get(CLASS_KEY) or " ".join(name.rsplit(".", 1)[-1] for name in kinds[:-1])
        del node.metadata_props[:]
        for key, value in ((MODULE_KEY, module), (CLASS_KEY, kind)):
            node.metadata_props.add(key=key, value=value)


def node_metadata(node: onnx.NodeProto, key: str) -> str:
    """One metadata entry of a node, "" when it has none."""
    return next((prop.value for prop in node.metadata_props if prop.key == key), "")


def set_metadata(proto: onnx.ModelProto, values: dict[str, str]) -> None:
    """Set graph-level metadata entries, replacing those of the same key."""
    kept = {prop.key: prop.value for prop in proto.metadata_props} | values
    del proto.metadata_props[:]
    for key, value in kept.items():
        proto.metadata_props.add(key=key, value=value)


def describe(proto: onnx.ModelProto, spec: Preprocess, classes: Sequence[str], task: str) -> None:
    """Put in what `read_metadata` and `read_task` read."""
    values = {PREPROCESS_KEY: json.dumps(spec.to_dict()), CLASSES_KEY: json.dumps(list(classes))}
    set_metadata(proto, values if task == DEFAULT_TASK else values | {TASK_KEY: task})


def read_metadata(proto: onnx.ModelProto) -> tuple[Preprocess, list[str]]:
    """The preprocessing spec and the class names that `export_onnx` put in."""
    values = {prop.key: prop.value for prop in proto.metadata_props}
    return Preprocess.from_dict(json.loads(values[PREPROCESS_KEY])), json.loads(values[CLASSES_KEY])


def read_task(proto: onnx.ModelProto) -> str:
    """What the network is for, as the recipe's `data.task` says it."""
    return next((prop.value for prop in proto.metadata_props if prop.key == TASK_KEY), DEFAULT_TASK)


def _as_list(text: str) -> list[str]:
    """The exporter writes these lists as Python text, with single quotes."""
    import ast

    value = ast.literal_eval(text)
    return [str(part) for part in value]
