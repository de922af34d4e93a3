"""ONNX files as other programs write them: of small networks, in the forms that people bring."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

CLASSES = 3


class SmallNetwork(nn.Module):
    """Normalised images (B, C, H, W) → logits (B, 3): convolutions with means over their maps, seeded."""

    def __init__(self, channels: int, seed: int):
        super().__init__()
        generator = torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(16, CLASSES)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(CLASSES, 16, generator=generator) * 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def write_brought(
    path: Path,
    size: tuple[int, int] = (32, 32),
    *,
    channels: int = 3,
    batch: int | None = None,
    opset: int = 17,
    seed: int = 3,
) -> Path:
    """The network by PyTorch's TorchScript exporter, as most files that are brought; any batch, or `batch` alone."""
    free = None if batch else {"pixels": {0: "n"}, "scores": {0: "n"}}
    torch.onnx.export(
        SmallNetwork(channels, seed).eval(), (torch.zeros(batch or 2, channels, *size),), str(path), dynamo=False,
        opset_version=opset, input_names=["pixels"], output_names=["scores"], dynamic_axes=free,
    )  # fmt: skip
    return path


def write_edited(path: Path, target: Path, **changes: Any) -> Path:
    """A copy of a written file with `changes`: `softmax`, `second_output`, `uint8`, `channels_last`."""
    proto = onnx.load(path)
    graph = proto.graph
    if changes.get("softmax"):
        graph.node.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1))
        graph.output[0].name = "probabilities"
    if changes.get("second_output"):
        graph.node.append(helper.make_node("Relu", ["scores"], ["features"]))
        graph.output.insert(0, helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", CLASSES]))
    if changes.get("uint8") or changes.get("channels_last"):
        sizes = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
        graph.input[0].name = "pictures"
        kind = TensorProto.UINT8 if changes.get("uint8") else TensorProto.FLOAT
        graph.input[0].CopyFrom(helper.make_tensor_value_info("pictures", kind, ["n", sizes[2], sizes[3], sizes[1]]))
        nodes = [helper.make_node("Transpose", ["pictures"], ["pixels"], perm=[0, 3, 1, 2])]
        if changes.get("uint8"):
            nodes = [
                helper.make_node("Cast", ["pictures"], ["floats"], to=TensorProto.FLOAT),
                helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
                helper.make_node("Div", ["planes", "most"], ["pixels"]),
            ]
            graph.initializer.append(numpy_helper.from_array(np.full((1, 1, 1, 1), 255, np.float32), "most"))
        for node in reversed(nodes):
            graph.node.insert(0, node)
    onnx.checker.check_model(proto)
    onnx.save(proto, target)
    return target
