"""The family: the authors' own keys and logits, the literal oracle, timm registration."""

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from golden import fill, images
from literal import literal

import models
from models import VARIANTS, T2TViT
from models.backbone import Block, sinusoid_positions
from models.backbone_studies import DenseStages
from models.t2t_vit import Variant

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())  # their logits at 224 px, the performer's `wx` in float32
# Of every network of theirs: number of keys, parameters and sha256 of the sorted "name shape" lines at 224 px and 1000
# classes; logits at 64 px and 7 classes in float64, its performer's casts to float32 taken out.
UPSTREAM = json.loads((HERE / "upstream_keys.json").read_text())

# The rule's orthogonal matrix comes from a QR decomposition in float32, whose last bits differ between processors: Intel's and
# AMD's logits are 5e-7 apart.
PERFORMER_ROUNDING = 1e-6


def by_rule(name: str, img_size: int, num_classes: int) -> T2TViT:
    """A model in float64 with the rule's weights; made on the meta device, so that no time goes into other weights."""
    with torch.device("meta"):
        model = timm.create_model(name, img_size=img_size, num_classes=num_classes)
    state = model.state_dict()
    state["pos_embed"] = sinusoid_positions(*state["pos_embed"].shape[1:])
    model.load_state_dict({key: value.double() for key, value in fill(state).items()}, assign=True)
    return model.eval()


LARGE = ("t2t_vit_14", "t2t_vit_19", "t2t_vit_24", "t2t_vit_t_24")  # seconds each


@pytest.mark.parametrize("name", sorted(UPSTREAM))
def test_a_published_checkpoint_fits(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items())
    assert len(lines) == UPSTREAM[name]["keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == UPSTREAM[name]["params"]
    listed = "\n".join(lines)
    assert hashlib.sha256(listed.encode()).hexdigest() == UPSTREAM[name]["sha256"], f"other names or shapes:\n{listed}"


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_logits(name: str) -> None:
    model = by_rule(name, 224, 1000)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == GOLDEN[name]["keys"]
    with torch.no_grad():
        logits = model(images()[:1].double())[0]
    difference = (logits[:8] - torch.tensor(GOLDEN[name]["logits_first8"][0]).double()).abs()
    norm = abs(float(logits.norm()) - GOLDEN[name]["logits_l2"][0])
    assert difference.max() < 1e-6 and norm < 1e-5, (
        f"max {difference.max():.2e}, mean {difference.mean():.2e}, norm {norm:.2e}"
    )
    assert logits.argmax() == GOLDEN[name]["argmax"][0]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in VARIANTS]
)
def test_every_variant_is_registered_and_equals_the_authors_and_the_literal_form(name: str) -> None:
    size = VARIANTS[name].image_size // 224 * 64 or 32  # 64 px for the paper's: same code, a twelfth of the tokens
    model = by_rule(name, size, 7)
    x = images(2, size).double()
    with torch.no_grad():
        ours, expected = model(x), literal(model, backbone=True)(x)
    difference = (ours - expected).abs()
    assert difference.max() < 1e-9, f"literal: max {difference.max():.2e}, mean {difference.mean():.2e}"
    assert ours.shape == (2, 7) and models.T2TViT is type(model)
    assert sum(isinstance(block, Block) for block in model.blocks) == VARIANTS[name].depth
    assert model.num_features == (584 if name == "t2t_vit_dense" else VARIANTS[name].embed_dim)
    if name in UPSTREAM:
        difference = (ours - torch.tensor(UPSTREAM[name]["logits_64px"], dtype=torch.float64)).abs()
        assert difference.max() < (1e-9 if VARIANTS[name].token_attention == "transformer" else PERFORMER_ROUNDING), (
            f"the authors': max {difference.max():.2e}, mean {difference.mean():.2e}"
        )


def test_only_our_own_variant_is_not_the_authors() -> None:
    assert set(VARIANTS) - set(UPSTREAM) == {"t2t_vit_mini", "t2t_vit_t_mini"} and set(UPSTREAM) <= set(VARIANTS)


def test_frozen_parameters_are_upstreams() -> None:
    model = timm.create_model("t2t_vit_mini")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"}


def test_no_classes_are_features() -> None:
    """As of every network of timm's."""
    model = timm.create_model("t2t_vit_mini", num_classes=0)
    assert model(images(2, 32)).shape == (2, model.num_features) == (2, 192)


def test_pretrained_is_refused_with_the_way_out() -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"checkpoint|pretrained"):
        timm.create_model("t2t_vit_14", pretrained=True)


def test_variant_table_is_the_papers() -> None:
    assert VARIANTS["t2t_vit_14"] == Variant("performer", 384, 14, 6, 3)
    assert VARIANTS["t2t_vit_t_24"] == Variant("transformer", 512, 24, 8, 3)
    assert VARIANTS["t2t_vit_dense"] == Variant("performer", 128, 19, 8, 2, block=DenseStages(64, (3, 6, 6, 4)))
