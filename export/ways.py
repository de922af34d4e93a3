"""The ways to write a network as an ONNX graph, tried in this order until one works. All compute the same.

All but the last give a graph for any number of images.
"""

import ast
import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export.explain import first_lines, is_data_dependent
from export.padding import keep_padding
from export.quiet import quiet
from export.runner import INPUT, OUTPUT
from export.same_logits import compute
from export.torchscript import CLASSES_KEY, SCOPES_KEY, export_torchscript

SAYS = {  # what each is, for people
    "dynamo": "torch.export",
    "dynamo-exportable": "torch.export, timm's attention written out",
    "torchscript": "TorchScript",
    "one-image": "torch.export, for one image at a time",
}
ONE_IMAGE = "one-image"


_CHECKED = 3  # images


class NotThisWay(Exception):
    """A way that cannot be taken with this network; the text is the reason."""


@dataclass(frozen=True)
class Exported:
    """How a graph was written: `way` is a key of `SAYS`, `failed` says why those before it did not do.

    `unfolds` are the names of the `nn.Unfold`s replaced.
    """

    way: str
    failed: dict[str, str] = field(default_factory=dict)
    unfolds: tuple[str, ...] = ()

    @property
    def fixed_batch(self) -> int | None:
        """The only number of images that the graph takes; None where it takes any."""
        return 1 if self.way == ONE_IMAGE else None


class NoWay(Exception):
    """None of the ways worked. `failed` says why, by way; `first` is what the first one raised."""

    def __init__(self, failed: dict[str, str], first: Exception):
        super().__init__("; ".join(f"{way}: {reason}" for way, reason in failed.items()))
        self.failed, self.first = failed, first


def write_graph(network: nn.Module, images: Tensor, opset: int) -> tuple[onnx.ModelProto, Exported]:
    """The graph of `network` (uint8 (B, H, W, 3) → logits; eval mode), example `images` with B = 2. NoWay where none works."""
    failed: dict[str, str] = {}
    first: Exception | None = None
    for way, write in _WAYS.items():
        try:
            if way == "torchscript" and first is not None and is_data_dependent(first):
                raise NotThisWay("it would write down one of the decisions that the network makes on its values")
            with warnings.catch_warnings(), quiet():
                warnings.simplefilter("ignore")
                return write(network, images, opset), Exported(way, failed)
        except Exception as error:  # the exporters pass on whatever the network's own code raises
            first = first or error
            failed[way] = str(error) if isinstance(error, NotThisWay) else first_lines(error)
    assert first is not None
    raise NoWay(failed, first)


def _dynamo(network: nn.Module, images: Tensor, opset: int) -> onnx.ModelProto:
    proto = _export(network, images, opset, {0: torch.export.Dim("batch")})
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.HasField("dim_param"):  # the exporter says nothing where the network's own code asks for that size
        raise NotThisWay(f"the network's code holds for a batch of {batch.dim_value} alone, the example's")
    return proto


def _export(network: nn.Module, images: Tensor, opset: int, free: dict[int, Any] | None) -> onnx.ModelProto:
    program = torch.onnx.export(
        network, (images,), dynamo=True, opset_version=opset, input_names=[INPUT], output_names=[OUTPUT],
        dynamic_shapes=None if free is None else (free,), verbose=False,
    )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    _name_folded_convolutions(proto, network)
    keep_padding(proto)
    return proto


def _name_folded_convolutions(proto: onnx.ModelProto, network: nn.Module) -> None:
    """Say of a convolution that it is the convolution: where BatchNorm was folded into it, the exporter says that it is that."""
    modules = dict(network.named_modules())
    for node in proto.graph.node:
        owner = node.input[1].removesuffix(".weight") if node.op_type == "Conv" else ""
        entries = {entry.key: entry for entry in node.metadata_props}
        if owner not in modules or not {SCOPES_KEY, CLASSES_KEY} <= entries.keys():
            continue
        scopes, classes = (ast.literal_eval(entries[key].value) for key in (SCOPES_KEY, CLASSES_KEY))
        if len(scopes) > 1 and isinstance(modules.get(scopes[-2]), nn.modules.batchnorm._BatchNorm):
            scopes[-2], classes[-2] = owner, type(modules[owner]).__name__
            entries[SCOPES_KEY].value, entries[CLASSES_KEY].value = str(scopes), str(classes)


def _dynamo_exportable(network: nn.Module, images: Tensor, opset: int) -> onnx.ModelProto:
    with exportable_layers(network):
        return _dynamo(network, images, opset)


@contextlib.contextmanager
def exportable_layers(network: nn.Module) -> Iterator[None]:
    """timm's layers as it makes them with `exportable=True`, in a network that is made already, and only in this block.

    What that changes, and the exporter minds, is the fused attention: its products are written out, with equal results.
    NotThisWay where the network has none.
    """
    fused = [module for module in network.modules() if getattr(module, "fused_attn", False) is True]
    if not fused:
        raise NotThisWay("the network has no layers of timm that have another form")
    for module in fused:
        setattr(module, "fused_attn", False)  # noqa: B010  (a plain attribute, which nn.Module does not declare)
    try:
        yield
    finally:
        for module in fused:
            setattr(module, "fused_attn", True)  # noqa: B010


def _one_image(network: nn.Module, images: Tensor, opset: int) -> onnx.ModelProto:
    """For a network that takes any batch, but in a way that no exporter follows: engines run images one by one."""
    proto = _export(network, images[:1], opset, None)
    compute(proto, network, _CHECKED, tuple(images.shape[1:]), one_by_one=True)
    return proto


_WAYS: dict[str, Callable[[nn.Module, Tensor, int], onnx.ModelProto]] = {
    "dynamo": _dynamo, "dynamo-exportable": _dynamo_exportable, "torchscript": export_torchscript, ONE_IMAGE: _one_image,
}  # fmt: skip
