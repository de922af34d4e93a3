"""What is bound to fail is found before anything runs: by a run before its training, and by --dry-run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from chain_run import copy_run

from calib.errors import InputError
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.data.look import Look
from pipeline.recipe import Recipe
from pipeline.run import checks
from pipeline.run.checks import check_before_running
from pipeline.training import stage as train_stage

FACTORY = """
import torch
from torch import nn

MADE = []


class Untraceable(nn.Module):
    # fails on the meta device, where no tensor has values
    def __init__(self, size):
        super().__init__()
        self.size, self.last = size, nn.Linear(3, 3)

    def forward(self, x):
        if float(x.sum()) > 1e9 or x.shape[-1] != self.size:
            raise RuntimeError(f"made for {self.size}")
        return self.last(x.mean((2, 3)))


def make(size=32):
    if not MADE:
        MADE.append(Untraceable(size))
    return MADE[0]
"""


def values(root: Path, **model: Any) -> dict[str, Any]:
    """A recipe's YAML for `image_root`."""
    model = model if "factory" in model else {"name": "t2t_vit_mini", **model}
    return {
        "schema": 1, "data": {"name": "three classes", "root": str(root)}, "model": {"image_size": 32, **model},
        "train": {"epochs": 1, "drop_path": 0, "batch_size": 20, "warmup_epochs": 0, "mixup": 0, "cutmix": 0, "workers": 0},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}], "visualize": {"precision": "fp32"},
    }  # fmt: skip


def check(recipe: dict[str, Any], training: bool = True) -> None:
    chosen = Recipe.model_validate(recipe)
    check_before_running(chosen, Look(chosen, unpack=False), training=training)


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`own_factory.py` in the current folder."""
    (tmp_path / "own_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.delitem(__import__("sys").modules, "own_factory", raising=False)


@pytest.mark.parametrize(
    "name", ["t2t_vit_mini", "t2t_vit_t_mini", "vt_resnet18", "test_resnet", "test_vit", "resnet18"]
)
def test_networks_that_take_the_size(image_root: Path, name: str) -> None:
    check(values(image_root, name=name, image_size=64))


def test_a_size_that_no_memory_holds_is_only_computed_as_shapes(image_root: Path) -> None:
    """A map of 1,024 × 1,024 tokens and attention over 65,536: hundreds of gigabytes on a CPU."""
    check(values(image_root, name="t2t_vit_t_14", image_size=4096))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "t2t_vit_mni"}, r"(?s)no such model.*got: t2t_vit_mni.*such as t2t_vit_mini"),
        ({"image_size": 1}, r"(?s)network of t2t_vit_mini does not take images \(1, 3, 1, 1\).*image_size: 1; torch says: .*"
                            r"[Kk]ernel size.*next: did you mean image_size: 32\?"),
        ({"name": "t2t_vit_14", "image_size": 2}, r"does not take images \(1, 3, 2, 2\)[^?]*did you mean image_size: 224\?"),
        ({"name": "vit_small_patch16_224", "image_size": 8}, r"does not take images[^?]*did you mean image_size: 224\?"),
        ({"name": "levit_128", "image_size": 225}, r"does not take images[^?]*did you mean image_size: 224\?"),  # in forward
        ({"name": "maxvit_tiny_tf_224", "image_size": 8}, r"does not take images[^?]*image_size: 224\?"),  # when it is made
        ({"args": {"foo": 1}}, r"cannot be made with model\.args"),
        ({"name": "vit_small_patch16_224", "args": {"foo": 1}, "image_size": 32}, r"cannot be made with model\.args"),
        ({"checkpoint": "gone.pt"}, r"(?s)no such checkpoint.*gone\.pt"),
        ({"factory": "nowhere_at_all:Net"}, r"cannot be imported: nowhere_at_all"),
        ({"factory": "own_factory:make", "args": {"size": 16}}, r"(?s)does not take images \(1, 3, 32, 32\).*made for 16"),
        ({"factory": "own_factory:mak"}, r"(?s)names nothing in own_factory.*allowed: .*make"),
    ],
)  # fmt: skip
def test_wrong_models(image_root: Path, factory: None, model: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check(values(image_root, **model))
    assert all(len(line) < 400 for line in str(caught.value).splitlines()), "torch's words are one line"


def test_an_unreadable_checkpoint(image_root: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="is damaged"):
        check(values(image_root, checkpoint=str(tmp_path / "weights.pt")))
    torch.save({"head": "x"}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="holds no weights"):
        check(values(image_root, checkpoint=str(tmp_path / "weights.pt")))


def test_a_factorys_network_is_made_on_the_cpu(image_root: Path, factory: None) -> None:
    """On the meta device this one fails, and as it is made once, the training would get it without weights."""
    check(values(image_root, factory="own_factory:make"))
    from own_factory import MADE  # type: ignore[import-not-found]

    assert next(MADE[0].parameters()).device.type == "cpu"


def test_what_the_meta_device_lacks_is_not_the_networks_fault(
    image_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = checks.create_network

    def create(*arguments: Any) -> torch.nn.Module:
        asked.append(torch.get_default_device().type)
        if asked[-1] == "meta":
            raise NotImplementedError("aten::something is not there for the meta device")
        return real(*arguments)

    monkeypatch.setattr(checks, "create_network", create)
    check(values(image_root))
    assert asked == ["meta", "cpu"]
    with pytest.raises(InputError, match=r"torch says: Calculated padded input"):
        check(values(image_root, image_size=1))


def test_the_check_draws_no_random_number(image_root: Path, factory: None) -> None:
    before = torch.get_rng_state()
    check(values(image_root))
    check(values(image_root, factory="own_factory:make"))
    assert torch.equal(before, torch.get_rng_state())


# --- images and calibration images ------------------------------------------------------------------------------------


def test_calibration_images(image_root: Path, tmp_path: Path) -> None:
    """60 training images: the default takes what there is, a number in the recipe must be there."""
    recipe = values(image_root)
    for calibrate in ({}, {"images": None}, {"images": 60}):
        check(recipe | {"calibrate": calibrate})
    for calibrate in ({"images": 61}, {"images": 512}):
        for training in (True, False):
            with pytest.raises(
                InputError, match=rf"(?s)60 images.*the {calibrate['images']} that.*calibrate\.images: 60"
            ):
                check(recipe | {"calibrate": calibrate}, training)
    source = {"source": str(image_root / "val"), "images": 31}
    with pytest.raises(InputError, match=r"(?s)val has too few.*30 images"):
        check(recipe | {"calibrate": source})
    with pytest.raises(InputError, match=r"calibrate\.source cannot be used"):
        check(recipe | {"calibrate": {"source": str(tmp_path / "gone")}})


def test_images_that_are_missing_or_still_packed(image_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the train images are missing"):
        check(values(tmp_path / "images"))
    np.savez(tmp_path / "images.npz", classes=["a", "b"], train_labels=[0, 1] * 10)
    recipe = values(tmp_path / "images")
    check(recipe)
    with pytest.raises(InputError, match=r"(?s)20 images.*at least the 21"):
        check(recipe | {"calibrate": {"images": 21}})
    (tmp_path / "images.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"image archive .* cannot be used"):
        check(recipe)
    recipe["data"] |= {"root": str(tmp_path / "shards"), "source": "webdataset", "origin": "elsewhere"}
    check(recipe | {"calibrate": {"images": 9999}})  # how many there will be is not known yet


# --- by the commands ----------------------------------------------------------------------------------------------------


def _set(part: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(recipe: dict[str, Any]) -> None:
        recipe[part] = recipe.get(part, {}) | changes

    return change


WRONG = [
    (_set("model", name="t2t_vit_mni"), "there is no such model"),
    (_set("model", image_size=1), "did you mean image_size: 32?"),
    (_set("model", checkpoint="gone.pt"), "no such checkpoint"),
    (_set("data", root="/nowhere"), "the train images are missing"),
    (_set("calibrate", images=500), "at least the 500 that calibrate.images asks for"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_refused_before_training(
    image_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None], message: str, options: list[str],
) -> None:  # fmt: skip
    def train(*_: object) -> dict[str, Any]:
        raise AssertionError("the training began")

    monkeypatch.setattr(train_stage, "train", train)
    monkeypatch.chdir(tmp_path)
    recipe = values(image_root)
    change(recipe)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", "--recipe", "recipe.yaml", "--run", "x", *options]) == WRONG_INPUT
    assert message in capsys.readouterr().err


@pytest.fixture
def finished(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, and the current folder."""
    folder = copy_run(tiny_run, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def test_a_finished_training_is_not_checked_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(*_: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(checks, "create_network", create)
    assert main(["run", "--dry-run"]) == main(["run"]) == DONE


def test_after_training_the_dry_run_still_counts_calibration_images(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = yaml.safe_load((finished / "recipes" / "demo.yaml").read_text())
    (finished / "recipes" / "demo.yaml").write_text(yaml.safe_dump(recipe | {"calibrate": {"images": 61}}))
    assert main(["run", "--dry-run"]) == WRONG_INPUT
    assert "at least the 61 that calibrate.images asks for" in capsys.readouterr().err
    assert main(["export", "--dry-run"]) == DONE, "that stage is not asked for"
