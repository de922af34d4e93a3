"""Checkpoints: ours come back whole, others are taken in strictly, and what does not fit says why."""

import argparse
import errno
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from calib.errors import InputError
from calib.preprocess import Preprocess
from pipeline.parts.model import ModelPart
from pipeline.training.checkpoint import Checkpoint, read_checkpoint, save_atomically, write_checkpoint
from pipeline.training.weights import Loaded, build_model, load_checkpoint

pytestmark = pytest.mark.slow

CLASSES = ("bag", "coat", "shoe")
NAME, SIZE = "t2t_vit_mini", 16
MODEL = ModelPart(name=NAME, image_size=SIZE)
SPEC = Preprocess(SIZE, SIZE, 1.0, "bilinear", (0.3, 0.3, 0.3), (0.4, 0.4, 0.4))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    model = timm.create_model(NAME, num_classes=3, img_size=SIZE)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def load(path: Path) -> Loaded:
    return load_checkpoint(MODEL.model_copy(update={"checkpoint": path}), CLASSES, SPEC)


def test_round_trip(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(Checkpoint(NAME, SIZE, CLASSES, SPEC.to_dict(), weights), path)
    assert torch.load(path, weights_only=True)["format"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"], "no temporary file may stay"
    read = read_checkpoint(path)
    assert (read.model, read.image_size, read.classes) == (NAME, SIZE, CLASSES)
    assert Preprocess.from_dict(read.preprocess) == SPEC
    model = build_model(read, MODEL)
    assert not model.training and same(model, weights)


def test_a_full_disk_is_said_by_the_system_and_not_filled_further(tmp_path: Path) -> None:
    """torch speaks of positions in the file; a limit on the size of files stands in for the disk's end."""
    save_atomically({"weights": torch.zeros(10)}, tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_atomically({"weights": torch.zeros(100_000)}, tmp_path / "last.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"] and (tmp_path / "last.pt").read_bytes() == before


def save_safetensors(weights: dict[str, torch.Tensor], path: Path) -> Path:
    path = path.with_suffix(".safetensors")
    save_file(weights, path)
    return path


def saved(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[dict[str, torch.Tensor], Path], Path]:
    def save(weights: dict[str, torch.Tensor], path: Path) -> Path:
        torch.save(change(weights), path)
        return path

    return save


@pytest.mark.parametrize(
    "save",
    [
        saved(lambda weights: weights),
        saved(lambda weights: {"state_dict": weights, "epoch": 3}),
        saved(lambda weights: {"model": weights, "optimizer": {"state": {}}}),
        saved(lambda weights: {"state_dict": {name: 0 * t for name, t in weights.items()}, "state_dict_ema": weights}),
        saved(lambda weights: {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}),
        saved(lambda weights: {"net": {f"module.{name}": tensor for name, tensor in weights.items()}, "acc": 98.3}),
        saved(lambda weights: {
            "state_dict_ema": weights, "args": argparse.Namespace(lr=5e-4), "metric": np.float64(81.5), "epoch": 309,
        }),
        saved(lambda weights: {
            "format": 1, "model": NAME, "image_size": SIZE, "classes": list(CLASSES), "state_dict": weights,
            "preprocess": SPEC.to_dict(),
        }),
        save_safetensors,
    ],
    ids=["plain", "state_dict", "model", "ema first", "module.", "net", "timm with args", "ours", "safetensors"],
)  # fmt: skip
def test_other_checkpoints(
    tmp_path: Path, weights: dict[str, torch.Tensor], save: Callable[[dict[str, torch.Tensor], Path], Path]
) -> None:
    loaded = load(save(weights, tmp_path / "weights.pth"))
    assert not loaded.model.training and same(loaded.model, weights)
    assert not loaded.fresh_classifier and not loaded.notes


def without(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "head.bias"), r"1 missing: head\.bias; 0 not in the model: none"),
        (lambda w: w | {"head2.bias": w["head.bias"]}, r"0 missing: none; 1 not in the model: head2\.bias"),
        (
            lambda w: w | {"head.weight": w["head.weight"][[0] * 7], "head.bias": w["head.bias"][[0] * 7]},
            "(?s)got: 7 classes.*allowed: 3 classes",
        ),
        (lambda w: w | {"pos_embed": w["pos_embed"][:, [0] * 17]}, r"(?s)pos_embed: \(1, 17, .*model.image_size"),
        (lambda w: {"epoch": 3}, "holds no weights"),
        (lambda w: {}, "holds no weights"),
        (lambda w: [1, 2], "holds no weights"),
        (lambda w: {"state_dict": w, "opener": Path}, "more than tensors"),
        (
            lambda w: {"format": 1, "model": NAME, "classes": ["bag", "coat", "hat"], "state_dict": w},
            "(?s)trained for other classes.*hat, shoe",
        ),
        (
            lambda w: {
                "format": 1,
                "classes": list(CLASSES),
                "state_dict": w,
                "preprocess": SPEC.to_dict() | {"crop_pct": 0.9},
            },
            r"(?s)other preprocessing.*got: crop_pct 0\.9.*allowed: crop_pct 1\.0",
        ),
    ],
)
def test_unfit_checkpoints(
    tmp_path: Path, weights: dict[str, torch.Tensor], change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    torch.save(change(weights), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read|is damaged"):
        load(tmp_path / name)


def test_cut_short(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(Checkpoint(NAME, SIZE, CLASSES, SPEC.to_dict(), weights), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        load(tmp_path / "none.pt")


def test_read_checkpoint_wants_ours(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, tmp_path / "other.pt")
    with pytest.raises(InputError, match="not a checkpoint of this pipeline"):
        read_checkpoint(tmp_path / "other.pt")
    torch.save({"format": 1, "model": NAME, "image_size": SIZE, "state_dict": weights}, tmp_path / "half.pt")
    with pytest.raises(InputError, match="'classes'"):
        read_checkpoint(tmp_path / "half.pt")
