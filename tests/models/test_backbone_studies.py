"""SE, ghost and dense blocks: gradients against the literal form, drop path, classifier, and the exported graph."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from golden import fill, images
from literal import literal
from torch import nn

from calib.preprocess import Preprocess
from export.onnx_export import INPUT, OUTPUT, NormalisedModel, export_onnx
from models.backbone import Block
from models.backbone_studies import DenseStages, Transition
from models.soft_split import SplitShape
from models.t2t_vit import T2TViT, Variant

SPLITS = (SplitShape(7, 4, 2), SplitShape(3, 1, 1), SplitShape(3, 2, 1))
SMALL = {
    "plain": Variant("performer", 48, 2, 3, 2, splits=SPLITS),
    "se": Variant("performer", 48, 2, 3, 2, block="se", splits=SPLITS),
    "ghost": Variant("performer", 48, 2, 4, 3, block="ghost", splits=SPLITS),
    "dense": Variant("transformer", 32, 4, 4, 2, block=DenseStages(16, (1, 2, 1)), splits=SPLITS),
}


class Studies(nn.Module):
    """Images → 8 × 8 patches → one block of each study → logits: what exports in a few seconds."""

    def __init__(self, blocks: nn.Module):
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 8, 8)
        self.blocks = blocks
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def small(block: str, drop_path_rate: float = 0.0) -> T2TViT:
    model = T2TViT(SMALL[block], img_size=32, num_classes=5, drop_path_rate=drop_path_rate).eval()
    weights = fill(model.state_dict())
    for key, value in weights.items():
        if "se_layer" in key or "cheap" in key:
            weights[key] = value * 10  # so that factors differ from channel to channel
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("block", SMALL)
def test_logits_and_gradients_equal_the_literal_form(block: str) -> None:
    model = small(block).double()
    twin = literal(model, backbone=True)
    x = images(3, 32).double()
    logits, expected = model(x), twin(x)
    difference = (logits - expected).abs()
    assert difference.max() < 1e-9, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    logits.square().sum().backward()
    expected.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            difference = (parameter.grad - gradients[name]).abs()
            assert difference.max() < 1e-9, f"{name}: max {difference.max():.2e}, mean {difference.mean():.2e}"
            assert parameter.grad.any(), f"{name} has no gradient: this test would show nothing of it"


@pytest.mark.parametrize("block", SMALL)
def test_a_fresh_classifier_has_the_final_width(block: str) -> None:
    model = small(block)
    model.reset_classifier(3)
    features = model.forward_features(images(2, 32))
    assert model(images(2, 32)).shape == (2, 3) and model.get_classifier().out_features == 3
    assert features.shape == (2, model.num_features) and model.num_features == (44 if block == "dense" else 48)


@pytest.mark.parametrize("block", SMALL)
def test_no_classes_are_features(block: str) -> None:
    """As timm's networks do, made so or made so later."""
    model, x = small(block), images(2, 32)
    names = list(model.state_dict())
    made = T2TViT(SMALL[block], img_size=32, num_classes=0)
    assert list(made.state_dict()) == [name for name in names if not name.startswith("head.")]
    assert made.eval()(x).shape == (2, made.num_features)
    features = model.forward_features(x)
    model.reset_classifier(0)
    assert model.num_classes == 0 and torch.equal(model(x), features)
    model.reset_classifier(5)
    assert model(x).shape == (2, 5) and list(model.state_dict()) == names


def test_drop_path_rises_by_block_and_for_dense_by_stage() -> None:
    def rates(block: str) -> list[float]:
        return [entry.drop_path.drop_prob for entry in small(block, 0.22).blocks if isinstance(entry, Block)]

    assert rates("ghost") == pytest.approx([0, 0.22])
    assert rates("dense") == pytest.approx([0, 0.02, 0.02, 0.04])  # upstream: the first of twelve rates up to 0.22


def test_dense_widths() -> None:
    entries = [(type(entry).__name__, entry.linear.weight.shape if isinstance(entry, Transition) else
                entry.dense_linear.weight.shape) for entry in small("dense").blocks]  # fmt: skip
    assert entries == [
        ("DenseBlock", (16, 32)), ("Transition", (24, 48)), ("DenseBlock", (16, 24)), ("DenseBlock", (16, 40)),
        ("Transition", (28, 56)), ("DenseBlock", (16, 28)),
    ]  # fmt: skip


@pytest.mark.slow
def test_exported_graph_equals_pytorch(spec: Preprocess, tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = [block for kind in ("se", "ghost") for block in small(kind).blocks[:1]] + list(small("dense").blocks[:2])
    model = Studies(nn.Sequential(*blocks[:2], nn.Linear(48, 32), *blocks[2:])).eval()
    export_onnx(model, spec, list("abcde"), tmp_path / "model.onnx")
    generator = torch.Generator().manual_seed(5)
    photographs = torch.randint(0, 256, (3, spec.height, spec.width, 3), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        expected = NormalisedModel(model, spec)(photographs)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    difference = (torch.from_numpy(session.run([OUTPUT], {INPUT: photographs.numpy()})[0]) - expected).abs()
    assert difference.max() < 1e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("Conv") == 1, "cheap operations are factors, not depthwise convolutions between transposes"
