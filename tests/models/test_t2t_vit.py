"""The family: golden logits of the authors' implementation, the literal oracle, timm registration."""

import json
from pathlib import Path

import pytest
import timm
import torch
from golden import fill, images
from literal import literal

import models
from models import VARIANTS
from models.t2t_vit import Variant

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_logits(name: str) -> None:
    model = timm.create_model(name).double().eval()
    state = model.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == GOLDEN[name]["keys"]
    assert sum(value.numel() for value in model.parameters()) == GOLDEN[name]["params"]
    model.load_state_dict(fill({key: value.float() for key, value in state.items()}))
    with torch.no_grad():
        logits = model(images().double())
    difference = (logits[:, :8] - torch.tensor(GOLDEN[name]["logits_first8"]).double()).abs()
    norms = (logits.norm(dim=1) - torch.tensor(GOLDEN[name]["logits_l2"]).double()).abs()
    message = f"max {difference.max():.2e}, mean {difference.mean():.2e}, norms {norms.max():.2e}"
    assert difference.max() < 1e-6 and norms.max() < 1e-5, message
    assert logits.argmax(1).tolist() == GOLDEN[name]["argmax"]


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_is_registered_and_equals_the_literal_form(name: str) -> None:
    size = VARIANTS[name].image_size // 224 * 64 or 32  # 64 px for the paper's: same code, a twelfth of the tokens
    model = timm.create_model(name, img_size=size, num_classes=7)
    model.load_state_dict(fill(model.state_dict()))
    model = model.double().eval()
    x = images(2, size).double()
    with torch.no_grad():
        ours, expected = model(x), literal(model)(x)
    difference = (ours - expected).abs()
    assert difference.max() < 1e-9, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    assert ours.shape == (2, 7) and models.T2TViT is type(model)


def test_gradients_equal_the_literal_form() -> None:
    torch.manual_seed(0)
    model = timm.create_model("t2t_vit_mini", num_classes=5).double().eval()
    twin = literal(model)
    x = images(3, 32).double()
    for network in (model, twin):
        network(x).square().sum().backward()
    expected = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            difference = (parameter.grad - expected[name].grad).abs().max()
            assert difference < 1e-9, f"{name}: max {difference:.2e}"


def test_frozen_parameters_are_upstreams() -> None:
    model = timm.create_model("t2t_vit_mini")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"}


def test_pretrained_is_refused_with_the_way_out() -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"checkpoint|pretrained"):
        timm.create_model("t2t_vit_14", pretrained=True)


def test_variant_table_is_the_papers() -> None:
    assert VARIANTS["t2t_vit_14"] == Variant("performer", 384, 14, 6, 3)
    assert VARIANTS["t2t_vit_t_24"] == Variant("transformer", 512, 24, 8, 3)
