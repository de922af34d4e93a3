"""Taps: blocks found by module paths, their tensors equal to PyTorch's, in the FP32 graph and in those made from it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from calib.calibration import CalibrationSet
from calib.images import read_split
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend
from export.graph.taps import Tap, find_blocks, find_token_attention, write_tapped
from export.onnx_export import INPUT, MODULE_KEY, OUTPUT, NormalisedModel, export_onnx
from export.quantize.cast_fp16 import cast_fp16
from export.simplify import simplify_onnx

pytestmark = pytest.mark.slow

MAPS = ["batch", 4, 8, 8]


def chain(paths: list[str], shape: list[str | int] = MAPS) -> onnx.ModelProto:
    """A graph of Relus one after the other, each said to come from the module of its path."""
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=f"node_{i:05d}") for i in range(len(paths))]
    for node, path in zip(nodes, paths, strict=True):
        node.metadata_props.add(key=MODULE_KEY, value=f"model.{path}" if path else "model")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("t0", f"t{len(paths)}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def names(paths: list[str]) -> list[str]:
    return [tap.name for tap in find_blocks(chain(paths))[0]]


@pytest.mark.parametrize(
    ("paths", "blocks"),
    [
        (  # ViT: what is numbered inside a block is a part of it
            ["patch_embed.proj", *(f"blocks.{i}.{part}" for i in range(3) for part in ("attn.qkv", "mlp.0", "mlp.fc1.conv"))],
            ["patch_embed", "blocks.0", "blocks.1", "blocks.2"],
        ),
        (  # T2T: numbered without a list
            ["t2t.attention1.kqv", "t2t.attention2.mlp.0", "t2t", "blocks.0.attn", "norm"],
            ["t2t.attention1", "t2t.attention2", "blocks.0"],
        ),
        (  # ResNet
            ["conv1", "layer1.0.conv1", "layer1.0.downsample.0", "layer1.1.act2", "layer2.0.conv1", "fc"],
            ["layer1.0", "layer1.1", "layer2.0"],
        ),
        (  # ConvNeXt, Swin: through a list; a stage's downsampling is no block
            ["stem.0", "stages.0.blocks.0.mlp.fc1", "stages.1.downsample.0", "stages.1.blocks.0.conv", "stages.1.blocks.1.conv"],
            ["stem", "stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1"],
        ),
        (  # RegNet, EfficientNet: modules of a block that are numbered and have parts
            ["s1.b1.conv1.conv", "s1.b2.conv1.bn", "s2.b1.conv2.bn", "blocks.0.0.bn1.act", "blocks.0.1.bn2.act"],
            ["s1.b1", "s1.b2", "s2.b1", "blocks.0.0", "blocks.0.1"],
        ),
        (  # DenseNet
            ["features.denseblock1.denselayer1.conv1", "features.denseblock1.denselayer2.conv1", "features.transition1.conv"],
            ["features.denseblock1.denselayer1", "features.denseblock1.denselayer2", "features.transition1"],
        ),
        (  # VGG: nothing is repeated, so layer by layer
            ["features.0", "features.1", "features.2", "pre_logits.fc1", ""],
            ["features.0", "features.1", "features.2", "pre_logits.fc1"],
        ),
    ],
    ids=["vit", "t2t", "resnet", "convnext", "regnet", "densenet", "vgg"],
)  # fmt: skip
def test_blocks_of_each_family(paths: list[str], blocks: list[str]) -> None:
    assert names(paths) == blocks


def test_a_blocks_output_is_the_last_tensor_used_outside() -> None:
    """`b.0` also hands t1 on, and goes on after `b.1` began; its output is what it made last."""
    proto = chain(["b.0.x", "b.0.x", "b.1.x", "b.0.y", "b.1.y", "b.2.x"])
    proto.graph.node[4].input[0] = "t1"
    proto.graph.node[5].op_type = "Add"
    proto.graph.node[5].input.append("t4")
    taps, skipped = find_blocks(proto)
    assert [(tap.name, tap.node) for tap in taps] == [
        ("b.0", "node_00003"),
        ("b.1", "node_00004"),
        ("b.2", "node_00005"),
    ]
    assert not skipped and {tap.shape for tap in taps} == {(4, 8, 8)}


@pytest.mark.parametrize("shape", [["batch", 10], ["batch", 7, 3], ["batch", 4, "height", "width"]])
def test_outputs_without_maps_are_left_out(shape: list[str | int]) -> None:
    taps, skipped = find_blocks(chain(["b.0.x", "b.1.x", "b.2.x"], shape))
    assert taps == []
    if len(shape) < 4:  # of the others the shape is not known
        assert list(skipped) == ["b.0.x", "b.1.x", "b.2.x"] and all(
            "no maps in its output" in why for why in skipped.values()
        )


class FilterTokenizer(nn.Module):
    """Weights over pixels as (B, HW, L)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x.flatten(2)[:, :9].transpose(1, 2), dim=1)  # B HW 9


class RowTokenizer(nn.Module):
    """Weights over pixels as (B, L, HW)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x.flatten(2)[:, :9], dim=-1)  # B 9 HW


class Selector(nn.Module):
    """A softmax of the same shape, in a module that makes no tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x.flatten(2)[:, :9], dim=-1)  # B 9 HW


class MapBlock(nn.Module):
    """B C H W, a residual of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))


class TokenBlock(nn.Module):
    """B T D, a residual MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class Network(nn.Module):
    """Maps, then tokens with a class token, three softmaxes of 9 tokens over 16 pixels, three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 8, stride=8)
        self.layer1 = nn.Sequential(MapBlock(), MapBlock())
        self.blocks = nn.ModuleList(TokenBlock() for _ in range(2))
        self.first, self.second, self.third = FilterTokenizer(), RowTokenizer(), Selector()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.stem(x))  # B 12 4 4
        attended = self.first(x).transpose(1, 2) + self.second(x) + 2 * self.third(x)  # B 9 16
        x = x.flatten(2).transpose(1, 2)  # B 16 12
        x = torch.cat((x.mean(1, keepdim=True), x), dim=1)  # B 17 12
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0]) + attended.square().sum((1, 2))[:, None]  # B 3


BLOCKS = {"layer1.0": (12, 4, 4), "layer1.1": (12, 4, 4), "blocks.0": (17, 12), "blocks.1": (17, 12)}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def images(image_root: Path, spec: Preprocess) -> np.ndarray:
    return load_batch(list(read_split(image_root, "val").paths), spec)


@pytest.fixture(scope="module")
def graph(network: nn.Module, spec: Preprocess, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taps")
    export_onnx(network, spec, ["a", "b", "c"], folder / "raw.onnx")
    assert simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", images[:4]).accepted
    return folder / "fp32.onnx"


def hooked(model: nn.Module, spec: Preprocess, images: np.ndarray, wanted: list[str]) -> dict[str, np.ndarray]:
    """What PyTorch's modules return."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: found.__setitem__(name, output.numpy())

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in wanted]
    with torch.inference_mode():
        NormalisedModel(model, spec).eval()(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    return found


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    with onnxruntime_backend.load(path, 1) as runner:
        return runner.infer({INPUT: images})


def test_taps_give_what_pytorchs_modules_return(
    graph: Path, network: nn.Module, spec: Preprocess, images: np.ndarray, tmp_path: Path
) -> None:
    taps, skipped = find_blocks(onnx.load(graph))
    assert (
        {tap.name: tap.shape for tap in taps} == BLOCKS and list(BLOCKS) == [tap.name for tap in taps] and not skipped
    )
    outputs = write_tapped(graph, tmp_path / "tapped.onnx", taps)
    results, expected = run(tmp_path / "tapped.onnx", images), hooked(network, spec, images, list(BLOCKS))
    for tap in taps:
        tensor = results[outputs[tap.name]]
        assert tensor.shape == (len(images), *tap.shape)
        difference = np.abs(tensor - expected[tap.name])
        assert difference.max() < 1e-4, f"{tap.name}: max {difference.max():.2e}, mean {difference.mean():.2e}"
    difference = np.abs(results[OUTPUT] - run(graph, images)[OUTPUT])  # a tapped tensor is fused less: rounding alone
    assert difference.max() < 1e-5, f"logits: max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_fp16_tensors_come_out_as_float32(graph: Path, images: np.ndarray, tmp_path: Path) -> None:
    cast_fp16(graph, tmp_path / "fp16.onnx", CalibrationSet(images, np.zeros(len(images), dtype=np.int64)), [])
    taps, _ = find_blocks(onnx.load(graph))
    first = write_tapped(graph, tmp_path / "a.onnx", taps)
    second = write_tapped(tmp_path / "fp16.onnx", tmp_path / "b.onnx", taps)
    ours, theirs = run(tmp_path / "a.onnx", images), run(tmp_path / "b.onnx", images)
    assert any(name.endswith("_float32") for name in second.values())
    for tap in taps:
        expected, tensor = ours[first[tap.name]], theirs[second[tap.name]]
        assert tensor.dtype == np.float32 and tensor.shape == expected.shape
        difference = np.abs(tensor - expected) / np.abs(expected).max()
        assert 0 < difference.max() < 2e-2, f"{tap.name}: max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_a_node_that_is_gone_is_not_named(graph: Path, tmp_path: Path) -> None:
    taps, _ = find_blocks(onnx.load(graph))
    outputs = write_tapped(graph, tmp_path / "tapped.onnx", [taps[0], Tap("gone", "node_99999", 0, (4, 4, 4))])
    assert list(outputs) == [taps[0].name]


def test_token_attention_is_found_whatever_its_axis(
    graph: Path, network: nn.Module, spec: Preprocess, images: np.ndarray, tmp_path: Path
) -> None:
    """9 tokens over 16 pixels: both are squares, the softmax's axis says which is which."""
    found = find_token_attention(onnx.load(graph))
    assert [(maps.name, maps.pixel_axis, maps.grid, maps.tokens) for maps in found] == [
        ("first", 1, (4, 4), 9), ("second", 2, (4, 4), 9),
    ]  # fmt: skip
    outputs = write_tapped(graph, tmp_path / "tapped.onnx", [maps.tap for maps in found])
    results, expected = run(tmp_path / "tapped.onnx", images), hooked(network, spec, images, ["first", "second"])
    for maps in found:
        tensor = results[outputs[maps.tap.name]]
        difference = np.abs(tensor - expected[maps.name])
        assert difference.max() < 1e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
        assert tensor.sum(axis=maps.pixel_axis) == pytest.approx(1, abs=1e-5)
