"""Networks by name and by a user's factory; what a factory can get wrong is said in one message."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from calib.errors import InputError
from pipeline.parts.model import ModelPart
from pipeline.training.network import classifier_names, create_network

NETWORKS = """
import torch
from torch import nn

NUMBER = 3


class Small(nn.Module):
    def __init__(self, classes, width=4):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, width, 3), nn.Linear(width, classes)

    def forward(self, x):
        return self.last(self.stem(x).mean((2, 3)))


class Pair(Small):
    def forward(self, x):
        return super().forward(x), x


class Named(Small):
    def forward(self, x):
        return {"features": x, "logits": super().forward(x)}


class Auxiliary(Small):
    def forward(self, x):
        logits = super().forward(x)
        return (x, logits) if self.training else logits


class Zoo:
    small = Small


def text():
    return "not a network"


def broken():
    raise OSError("no weights here")
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`own_networks.py` in the current folder, as a user has it."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.delitem(__import__("sys").modules, "own_networks", raising=False)


def part(factory: str, args: dict[str, Any] | None = None, size: int = 16) -> ModelPart:
    return ModelPart(factory=factory, args=args or {}, image_size=size)


@pytest.mark.parametrize("factory", ["own_networks:Small", "own_networks:Zoo.small"])
def test_factory(networks: None, factory: str) -> None:
    model = create_network(part(factory, {"classes": 5, "width": 6}), 5)
    assert model.training, "as timm's: fresh networks come in training mode"
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert classifier_names(model) == {"last.weight", "last.bias"}


@pytest.mark.parametrize(
    ("factory", "args", "message"),
    [
        ("nowhere_at_all:Net", {}, r"(?s)cannot be imported: nowhere_at_all.*pip install"),
        ("own_networks:Large", {}, r"(?s)names nothing in own_networks.*got: Large .*allowed: .*Small"),
        ("own_networks:NUMBER", {}, r"(?s)cannot be called.*got: int"),
        (
            "own_networks:Small",
            {"clases": 5},
            r"(?s)own_networks:Small failed.*clases.*allowed: Small\(classes, width=4\)",
        ),
        ("own_networks:broken", {}, r"(?s)broken failed.*OSError: no weights here"),
        ("own_networks:text", {}, r"(?s)does not return a network.*got: str"),
        (
            "own_networks:Pair",
            {"classes": 5},
            r"(?s)gives no single tensor.*0 \(1, 5\), 1 \(1, 3, 16, 16\).*set model.output",
        ),
        (
            "own_networks:Small",
            {"classes": 1000},
            r"(?s)does not give 5 logits.*\(1, 1000\).*allowed: a tensor \(1, 5\)",
        ),
        ("torch.nn:Flatten", {"start_dim": 9}, r"(?s)does not take images \(1, 3, 16, 16\).*IndexError"),
    ],
)
def test_wrong_factories(networks: None, factory: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_network(part(factory, args), 5)


def test_drop_path_of_a_factory(networks: None) -> None:
    with pytest.raises(InputError, match=r"train\.drop_path: 0"):
        create_network(part("own_networks:Small", {"classes": 5}), 5, drop_path=0.1)


def test_timm_names() -> None:
    with pytest.raises(InputError, match="t2t_vit_14"):
        create_network(ModelPart(name="t2t_vit_41", image_size=32), 3)
    with pytest.raises(InputError, match="no drop path"):
        create_network(ModelPart(name="vgg11", image_size=32), 3, drop_path=0.1)
    model = create_network(ModelPart(name="test_resnet", image_size=48), 3)  # takes any size
    assert model.get_classifier().out_features == 3  # type: ignore[operator]


def test_options_of_timm_models() -> None:
    """The paper's tokenizers are options of the model; a wrong one names those there are."""
    part = ModelPart(name="vt_resnet18", image_size=32, args={"tokenizer": "pooling"})
    assert type(create_network(part, 3).stage5[0].tokenizer).__name__ == "PoolingTokenizer"  # type: ignore[index]
    wrong = (
        (part.model_copy(update={"args": {"tokenizer": "word"}}), "no tokenizer 'word'"),
        (part.model_copy(update={"args": {"heads": 3}}), "heads"),
        (part.model_copy(update={"args": {"tokenizer": "clustering"}}), "too few for 16 clusters"),
    )
    for chosen, message in wrong:
        with pytest.raises(InputError, match=message):
            create_network(chosen, 3)


def test_classifier_of_timm_models() -> None:
    """timm says which layer it is, wherever it stands."""
    convnet = create_network(ModelPart(name="mobilenetv3_small_050", image_size=32), 3)
    assert classifier_names(convnet) == {"classifier.weight", "classifier.bias"}
    assert classifier_names(nn.ReLU()) == set()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "one of the three"),
        ({"name": "resnet50", "factory": "a:b"}, "one of the three"),
        ({"factory": "os.system('x')"}, "should match pattern"),
        ({"factory": "package"}, "should match pattern"),
        ({"name": "resnet50", "transfer": True}, "transfer needs a checkpoint"),
        ({"name": "resnet50", "args": {"in_chans": 1}}, "args.in_chans is the key in_chans itself"),
        ({"name": "resnet50", "onnx": "a.onnx"}, "one of the three"),
        ({"onnx": "a.onnx", "checkpoint": "a.pt"}, "has its weights and its form"),
    ],
)
def test_wrong_model_parts(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelPart(image_size=32, **values)


@pytest.mark.parametrize(("factory", "output"), [("Pair", 0), ("Named", "logits"), ("Auxiliary", 1)])
def test_the_recipe_names_the_logits(networks: None, factory: str, output: int | str) -> None:
    """In training, too, and the weights keep their names."""
    named = ModelPart(factory=f"own_networks:{factory}", args={"classes": 5}, image_size=16, output=output)
    model = create_network(named, 5)
    assert set(model.state_dict()) == {"stem.weight", "stem.bias", "last.weight", "last.bias"}
    images = torch.rand(2, 3, 16, 16)
    for mode in (True, False):
        logits = model.train(mode)(images)
        assert torch.equal(logits, model.last(model.stem(images).mean((2, 3))))


def test_an_output_that_is_not_there(networks: None) -> None:
    with pytest.raises(
        InputError, match=r"(?s)has no output probabilities.*features \(1, 3, 16, 16\), logits \(1, 5\)"
    ):
        create_network(
            ModelPart(factory="own_networks:Named", args={"classes": 5}, image_size=16, output="probabilities"), 5
        )
