"""Other people's checkpoints, other classes, other image sizes."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from calib.errors import InputError
from calib.preprocess import Preprocess
from models import VARIANTS
from models.backbone import sinusoid_positions
from pipeline.parts.model import ModelPart
from pipeline.training.checkpoint import Checkpoint, write_checkpoint
from pipeline.training.weights import Loaded, load_checkpoint, nearest_model

pytestmark = pytest.mark.slow

SPEC = Preprocess(32, 32, 1.0, "bilinear", (0.3, 0.3, 0.3), (0.4, 0.4, 0.4))
CLASSES = tuple(f"class {index:04d}" for index in range(1000))


def load(path: Path, name: str, classes: tuple[str, ...], size: int = 32, **options: object) -> Loaded:
    part = ModelPart.model_validate({"name": name, "image_size": size, "checkpoint": path, **options})
    return load_checkpoint(part, classes, SPEC)


def key_layout(name: str, **options: int) -> dict[str, Tensor]:
    """A state dict of the model's names and shapes, one stored number each, so that its file is small."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in timm.create_model(name, **options).state_dict().items()}
    return {key: torch.full((), index / 7).expand(shape) for index, (key, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_authors_files_load_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As their training program wrote them: the average beside the weights, `module.`, and the program's arguments."""
    monkeypatch.setattr("models.t2t_vit.trunc_normal_", lambda tensor, std: tensor)  # first weights would take seconds
    weights = key_layout(name)
    content = {
        "epoch": 305, "arch": name, "args": argparse.Namespace(model=name, lr=5e-4), "metric": 81.5,
        "state_dict": {f"module.{key}": torch.zeros(()).expand(value.shape) for key, value in weights.items()},
        "state_dict_ema": {f"module.{key}": value for key, value in weights.items()},
    }  # fmt: skip
    torch.save(content, tmp_path / "81.5_model.pth.tar")
    loaded = load(tmp_path / "81.5_model.pth.tar", name, CLASSES, VARIANTS[name].image_size)
    assert not loaded.notes and not loaded.fresh_classifier
    wrong = [key for key, value in loaded.model.state_dict().items() if not torch.equal(value, weights[key])]
    assert not wrong, wrong[:5]


# --- transfer -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = timm.create_model("t2t_vit_mini", num_classes=4)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def four_classes(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": weights}, tmp_path / "four.pth")
    return tmp_path / "four.pth"


def test_transfer_to_other_classes(four_classes: Path, weights: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match=r"(?s)4 classes.*allowed: 3 classes.*model\.transfer: true"):
        load(four_classes, "t2t_vit_mini", ("a", "b", "c"))
    loaded = load(four_classes, "t2t_vit_mini", ("a", "b", "c"), transfer=True)
    assert loaded.fresh_classifier and loaded.notes == ("fresh for 3 classes: head.bias, head.weight",)
    found = loaded.model.state_dict()
    assert found["head.weight"].shape == (3, 192) and found["head.weight"].std() > 0
    assert all(torch.equal(found[name], weights[name]) for name in found if not name.startswith("head."))


def test_transfer_keeps_a_classifier_that_fits(four_classes: Path, weights: dict[str, Tensor]) -> None:
    loaded = load(four_classes, "t2t_vit_mini", ("a", "b", "c", "d"), transfer=True)
    assert not loaded.fresh_classifier and not loaded.notes
    assert torch.equal(loaded.model.state_dict()["head.weight"], weights["head.weight"])


def test_transfer_from_ours_to_other_classes_of_the_same_number(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    spec = {"width": 32, "height": 32, "crop_pct": 1.0, "interpolation": "bilinear", "mean": [0] * 3, "std": [1] * 3}
    write_checkpoint(Checkpoint("t2t_vit_mini", 32, ("a", "b", "c", "d"), spec, weights), tmp_path / "ours.pt")
    with pytest.raises(InputError, match="trained for other classes"):
        load(tmp_path / "ours.pt", "t2t_vit_mini", ("e", "f", "g", "h"))
    assert load(tmp_path / "ours.pt", "t2t_vit_mini", ("e", "f", "g", "h"), transfer=True).fresh_classifier


@pytest.mark.parametrize("positions", ["interpolate", "sinusoid"])
def test_transfer_to_another_image_size(four_classes: Path, weights: dict[str, Tensor], positions: str) -> None:
    with pytest.raises(InputError, match=r"(?s)pos_embed: \(1, 17, 192\).*\(1, 37, 192\).*model\.transfer: true"):
        load(four_classes, "t2t_vit_mini", ("a", "b", "c", "d"), size=48)
    loaded = load(four_classes, "t2t_vit_mini", ("a", "b", "c", "d"), size=48, transfer=True, positions=positions)
    old = weights["pos_embed"]
    grid = F.interpolate(old[:, 1:].reshape(1, 4, 4, 192).permute(0, 3, 1, 2), size=(6, 6), mode="bicubic")
    interpolated = torch.cat((old[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 36, 192)), dim=1)
    expected = interpolated if positions == "interpolate" else sinusoid_positions(37, 192)
    found = loaded.model.state_dict()["pos_embed"]
    assert (found - expected).abs().max() < 1e-6, (found - expected).abs().max()
    assert loaded.notes[0].startswith("pos_embed from 4×4 to 6×6 tokens: ") and not loaded.fresh_classifier


def test_384_pixels(tmp_path: Path) -> None:
    """Weights of 224 px at 384 px, the paper's larger size: 14×14 tokens become 24×24."""
    torch.save(key_layout("t2t_vit_7"), tmp_path / "t2t_vit_7.pth")
    loaded = load(tmp_path / "t2t_vit_7.pth", "t2t_vit_7", CLASSES, size=384, transfer=True)
    assert loaded.notes == ("pos_embed from 14×14 to 24×24 tokens: interpolated",)
    assert loaded.model.state_dict()["pos_embed"].shape == (1, 577, 256)


def test_learned_positions_are_interpolated_only(tmp_path: Path) -> None:
    torch.save(key_layout("test_vit", num_classes=4, img_size=160), tmp_path / "vit.pth")
    loaded = load(tmp_path / "vit.pth", "test_vit", tuple("abcd"), size=96, transfer=True)
    assert "interpolated" in loaded.notes[0]
    with pytest.raises(InputError, match="learns its position embedding"):
        load(tmp_path / "vit.pth", "test_vit", tuple("abcd"), size=96, transfer=True, positions="sinusoid")


# --- which model a file is of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t2t_vit_14_se", "resnet101"])
def test_nearest_model(name: str) -> None:
    assert nearest_model(key_layout(name, num_classes=7)) == (name, 1)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("t2t_vit_t_14", lambda w: w, r"(?s)missing: .*tokens_to_token\.attention1\.kqv.*set model\.name: t2t_vit_t_14"),
        (
            "t2t_vit_10", lambda w: {k: v for k, v in w.items() if "norm2" not in k},
            r"(?s)24 missing: .*nearest is t2t_vit_10 \(83 %",
        ),
        ("test_resnet", lambda w: w, r"(?s)like none of `t2t-edge models`"),
    ],
)  # fmt: skip
def test_another_models_weights(tmp_path: Path, name: str, change: object, message: str) -> None:
    torch.save(change(key_layout(name)), tmp_path / "other.pth")  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        load(tmp_path / "other.pth", "t2t_vit_10", CLASSES, size=224)
