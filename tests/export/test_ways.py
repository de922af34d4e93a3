"""Every way to a graph: which is taken, that all compute the same, and that all name the same layers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from calib.errors import InputError
from calib.precision.closeness import compare_logits
from calib.precision.policy import decide
from calib.preprocess import Preprocess
from export import ways
from export.engines import onnxruntime_backend
from export.explain import first_lines
from export.graph.layers import read_layers
from export.graph.taps import find_blocks
from export.onnx_export import INPUT, OUTPUT, NormalisedModel, export_onnx
from export.simplify import simplify_onnx
from export.torchscript import find_scopes
from export.ways import Exported

pytestmark = pytest.mark.slow

SPEC = Preprocess(32, 32, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


class Network(nn.Module):
    """A stem with BatchNorm, a class token, blocks, and a sequence-first encoder."""

    def __init__(self, *blocks: nn.Module, last: nn.Module | None = None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.encoder = nn.TransformerEncoderLayer(32, 2, 64, norm_first=True)
        self.last = last or nn.Identity()
        self.head = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1))
        return self.head(self.last(self.encoder(x.transpose(0, 1))[0]))


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Counting(nn.Module):
    """Takes any batch; exporters take its size for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(x.shape[0]), -1) * 2


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(2).view(2, 1)


def network(*blocks: nn.Module, last: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = Network(*blocks, last=last).eval()
    for value in model.parameters():
        nn.init.normal_(value, std=0.1)
    return model


def small_beit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "beit_base_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=4
    ).eval()


def export(model: nn.Module, path: Path) -> Exported:
    found = export_onnx(model, SPEC, tuple("abcd"), path)
    with torch.no_grad():
        expected = NormalisedModel(model, SPEC).eval()(torch.from_numpy(IMAGES)).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        closeness = compare_logits(expected[:batch], session.run(None, {INPUT: IMAGES[:batch]})[0])
        assert closeness.same, closeness
    return found


def only(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(ways, "_WAYS", {way: ways._WAYS[way]})


def decided(path: Path) -> tuple[list[tuple[object, ...]], list[str]]:
    """What every policy makes of the layers, by module; and the blocks whose outputs are shown."""
    simplify_onnx(path, path, IMAGES)
    proto = onnx.load(path)
    layers = read_layers(proto)
    rows: list[tuple[object, ...]] = []
    for policy in ("weights", "+attention", "+residual", "full"):
        for of in decide(layers, policy):
            layer = of.layer
            if layer.role or (layer.weight_shape and layer.operator in ("Conv", "Gemm", "MatMul")):
                shape = tuple(sorted(layer.weight_shape))
                rows.append(
                    (policy, layer.operator, layer.module, layer.classes, shape, layer.role, of.inputs, of.output)
                )
    return rows, [tap.name for tap in find_blocks(proto)[0]]


def test_timms_attention_is_written_out_and_the_network_left_as_it_was(tmp_path: Path) -> None:
    model = small_beit()
    found = export(model, tmp_path / "raw.onnx")
    assert found.way == "dynamo-exportable" and list(found.failed) == ["dynamo"]
    assert "Cannot view a tensor" in found.failed["dynamo"]
    assert all(block.attn.fused_attn for block in model.blocks), "left on"  # type: ignore[union-attr]


def test_what_has_no_layers_of_timm_goes_by_torchscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with timm's attentions stands in for one with the same lines of its own."""
    with pytest.raises(ways.NotThisWay, match=r"no layers of timm"), ways.exportable_layers(nn.Linear(2, 2)):
        pass

    def none(*_: object) -> onnx.ModelProto:
        raise ways.NotThisWay("the network has no layers of timm that have another form")

    monkeypatch.setitem(ways._WAYS, "dynamo-exportable", none)
    found = export(small_beit(), tmp_path / "raw.onnx")
    assert found.way == "torchscript" and list(found.failed) == ["dynamo", "dynamo-exportable"]
    operators = {node.op_type for node in onnx.load(tmp_path / "raw.onnx").graph.node}
    assert not operators & {"Constant", "Identity", "Where", "ConstantOfShape"}, "no arithmetic on shapes is left"


def test_decisions_and_blocks_are_the_same_by_all_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that all of them can write."""
    model = network(Block(32, 2), Block(32, 2))
    found = {}
    for way in ("dynamo", "dynamo-exportable", "torchscript"):
        with monkeypatch.context() as patch:
            only(patch, way)
            assert export(model, tmp_path / f"{way}.onnx").way == way
        found[way] = decided(tmp_path / f"{way}.onnx")
    assert found["torchscript"] == found["dynamo"] and found["dynamo-exportable"] == found["dynamo"]
    rows, blocks = found["dynamo"]
    assert "stem.0" in {row[2] for row in rows if row[6]}, "the convolution, not the BatchNorm that was folded into it"
    assert {"blocks.0", "blocks.1"} <= set(blocks)


def test_the_two_other_ways_agree_on_a_beit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for way in ("dynamo-exportable", "torchscript"):
        with monkeypatch.context() as patch:
            only(patch, way)
            export(small_beit(), tmp_path / f"{way}.onnx")
        found.append(decided(tmp_path / f"{way}.onnx"))
    assert found[0] == found[1] and {"blocks.0", "blocks.1"} <= set(found[0][1])


def test_a_decision_on_values_is_never_traced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)cannot be exported.*Deciding.*TorchScript: it would write down one"):
        export_onnx(network(last=Deciding()), SPEC, tuple("abcd"), tmp_path / "raw.onnx")


def test_a_network_for_one_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)cannot be exported.*FixedBatch.*TorchScript") as caught:
        export_onnx(network(last=FixedBatch()), SPEC, tuple("abcd"), tmp_path / "raw.onnx")
    assert not any(odd in str(caught.value) for odd in ("\x1b", "GitHub", "issue")), caught.value
    assert not (tmp_path / "raw.onnx").exists()


def test_a_network_that_exporters_follow_for_one_batch_size_is_written_for_one_image(tmp_path: Path) -> None:
    model, path = network(last=Counting()), tmp_path / "raw.onnx"
    found = export_onnx(model, SPEC, tuple("abcd"), path)
    assert found.way == "one-image" and found.fixed_batch == 1 and len(found.failed) == 3
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    with torch.no_grad():
        expected = NormalisedModel(model, SPEC).eval()(torch.from_numpy(IMAGES)).numpy()
    with onnxruntime_backend.load(path, 1) as runner:
        closeness = compare_logits(expected, runner.infer({INPUT: IMAGES})[OUTPUT])
    assert closeness.same, closeness


def test_messages_hold_no_advice_and_no_colours() -> None:
    text = (
        "Failed to export. \x1b[96mThis is step 1/3\x1b[0m of exporting the model. Next steps:\n- Create an issue in the "
        "PyTorch GitHub repository\n- Create an error report with `torch.onnx.export(..., report=True)`\n\n"
        "\x1b[31mCannot view a tensor\x1b[0m\n"
    )
    assert first_lines(ValueError(text)) == "ValueError: Cannot view a tensor"


@pytest.mark.parametrize(
    ("node", "scopes"),
    [
        ("/Cast", [""]),
        ("/model/stem/stem.0/Conv", ["", "model", "model.stem", "model.stem.0"]),
        ("/model/blocks/blocks.0/attn/qkv/MatMul_1",
         ["", "model", "model.blocks", "model.blocks.0", "model.blocks.0.attn", "model.blocks.0.attn.qkv"]),
        ("/model/unknown/Add", ["", "model"]),
    ],
)  # fmt: skip
def test_scopes_of_a_node_name(node: str, scopes: list[str]) -> None:
    found, classes = find_scopes(node, NormalisedModel(network(Block(32, 2)), SPEC))
    assert found == scopes and classes[0] == "NormalisedModel" and len(classes) == len(found)
