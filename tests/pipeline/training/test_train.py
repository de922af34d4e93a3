"""Training: exact continuation, several processes, and errors a person can act on."""

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Forked
from timm.utils import ModelEmaV3
from trainings import (
    EVERYTHING,
    PLAIN,
    assert_same_training,
    folder,
    launch,
    recipe,
    rows,
    train_and_record,
    write_images,
)

from calib.errors import InputError
from calib.images import read_split
from calib.preprocess import Preprocess, load_batch
from pipeline.parts.train import TrainPart
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.distributed import World
from pipeline.training.learning.classes import TrainImages
from pipeline.training.learning.learning import LEARNING
from pipeline.training.loader import EpochSampler, Normalise, device_batches, make_loaders
from pipeline.training.stage import train
from pipeline.training.state import new_state
from pipeline.training.weights import build_model

pytestmark = pytest.mark.slow


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_training_goes_on_exactly(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Interrupted in the second epoch: the same bits as never interrupted, with other numbers of workers, too."""
    whole, broken = folder(tmp_path, "whole"), folder(tmp_path, "broken")
    train(recipe(images, EVERYTHING), whole)
    update, calls = ModelEmaV3.update, []

    def interrupted(self: ModelEmaV3, *arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 5:  # three steps an epoch
            raise KeyboardInterrupt
        update(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ModelEmaV3, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(images, EVERYTHING | {"workers": workers}), broken)
    assert [row["epoch"] for row in rows(broken)] == ["1"]
    assert not (broken / "checkpoint.pt").exists()
    torch.rand(7), np.random.rand(3)  # a process with another history
    notes = train(recipe(images, EVERYTHING | {"workers": workers}), broken)
    assert [row["epoch"] for row in rows(broken)] == ["1", "2", "3"]
    assert_same_training(whole, broken)
    assert notes["epochs"] == 3 and notes["weights"] == "moving average"


def test_seed_decides(tmp_path: Path, images: Path) -> None:
    """The comparison above can fail: another seed is another training."""
    first, second = folder(tmp_path, "first"), folder(tmp_path, "second")
    train(recipe(images, EVERYTHING), first)
    train(recipe(images, EVERYTHING | {"seed": 1}), second)
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_same_training(first, second)


def test_other_recipe_does_not_go_on(tmp_path: Path, images: Path) -> None:
    work = folder(tmp_path, "work")
    train(recipe(images, PLAIN), work)
    train(recipe(images, PLAIN | {"workers": 1, "eval_every": 2}), work)  # these do not change the weights
    with pytest.raises(InputError, match=r"(?s)train\.lr: 0\.0005.*train\.lr: 0\.1.*rm ") as caught:
        train(recipe(images, PLAIN | {"lr": 0.1}), work)
    assert "train.epochs" not in str(caught.value)
    (work / "last.pt").write_bytes((work / "last.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.pt.*cannot be read"):
        train(recipe(images, PLAIN), work)


def test_learns_and_reports(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bright against dark is learnt; the checkpoint holds what was measured; notes, table, lines and events agree."""
    work = folder(tmp_path, "work")
    chosen = recipe(images, PLAIN | {"epochs": 6, "lr": 1e-3, "eval_every": 4})
    notes = train(chosen, work)
    assert notes["top1"] == 100.0 and notes["weights"] == "last epoch" and notes["images_per_s"] > 0
    table = rows(work)
    assert [row["val_top1"] != "" for row in table] == [False, False, False, True, False, True]
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"])
    assert float(table[0]["lr"]) > float(table[-1]["lr"]) >= 1e-5, "the cosine falls"
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and "epoch 6/6" in lines[-1] and "top-1 100.00 %" in lines[-1]
    assert last.strip() == "top-1 100.00 % on 7 images (last epoch)"
    assert list((work / "tensorboard").glob("events.out.tfevents.*"))
    checkpoint = read_checkpoint(work / "checkpoint.pt")
    assert checkpoint.classes == ("bright", "dark") and checkpoint.preprocess == chosen.preprocess_spec().to_dict()
    assert top1_of(work, images, chosen) == notes["top1"]


def top1_of(work: Path, root: Path, chosen: Recipe) -> float:
    """Top-1 in percent of the checkpoint, computed plainly."""
    split, spec = read_split(root, "val"), chosen.preprocess_spec()
    model = build_model(read_checkpoint(work / "checkpoint.pt"), chosen.model)
    batch = torch.from_numpy(load_batch(list(split.paths), spec)).permute(0, 3, 1, 2)
    with torch.no_grad():
        guessed = model(Normalise(spec, torch.device("cpu"))(batch)).argmax(1)
    return 100 * float((guessed == torch.tensor(split.labels)).sum()) / len(split)


def test_what_is_said_is_of_the_weights_that_are_kept(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of the last epoch's, where the checkpoint gets their moving average."""
    work = folder(tmp_path, "work")
    chosen = recipe(images, PLAIN | {"lr": 1e-2, "ema_decay": 0.9})
    notes = train(chosen, work)
    assert rows(work)[-1]["val_top1"] != rows(work)[-1]["ema_top1"], "this test shows nothing"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.strip() == f"top-1 {top1_of(work, images, chosen):.2f} % on 7 images (moving average)"
    assert notes["top1"] == top1_of(work, images, chosen)


def test_no_epochs_takes_the_checkpoint_over(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = folder(tmp_path, "first"), folder(tmp_path, "second")
    train(recipe(images, PLAIN), first)
    chosen = recipe(images, PLAIN | {"epochs": 0}, weights=first / "checkpoint.pt")
    capsys.readouterr()
    notes = train(chosen, second)
    *_, last = capsys.readouterr().out.splitlines()
    assert last.strip() == "nothing to train (model.checkpoint): export computes what these weights reach"
    assert notes["epochs"] == 0 and notes["images_per_s"] is None and notes["top1"] is None
    one, two = (read_checkpoint(path / "checkpoint.pt").state_dict for path in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_corrupt_image(tmp_path: Path, images: Path, split: str, workers: int) -> None:
    """The person sees the message, from whichever process it comes."""
    path = images / split / "dark" / "1.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError) as caught:
        train(recipe(images, PLAIN | {"workers": workers, "batch_size": 14}), folder(tmp_path, "work"))
    assert not multiprocessing.active_children(), "the workers must be gone"
    assert str(caught.value).startswith("this image cannot be decoded\n  got: " + str(path))
    assert "Traceback" not in str(caught.value) and caught.value.next_step == f"replace or delete it: rm '{path}'"


def test_nan_loss_stops(tmp_path: Path, images: Path) -> None:
    with pytest.raises(RuntimeError, match=r"training loss is nan in epoch 1, step [23].*\n.*lower train\.lr"):
        train(recipe(images, PLAIN | {"optimizer": "sgd", "lr": 1e30, "workers": 1}), folder(tmp_path, "work"))
    assert not multiprocessing.active_children(), "the workers must be gone"
    assert not (tmp_path / "work" / "last.pt").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 15}, "at most 14"),
        ({"batch_size": 5, "mixup": 0.5}, "an even number"),
        ({"warmup_epochs": 2}, r"together less than train\.epochs \(2\)"),
        ({"auto_augment": "nonsense"}, r"train\.auto_augment"),
        ({"optimizer": "adamwww"}, "no such optimizer"),
        ({"optimizer": "fusedadam"}, r"(?s)does not work here.*fusedadam: .*next: change train\.optimizer"),
        ({"optimizer": "lookahead_bnbadamw"}, r"(?s)does not work here.*bnbadamw: .*next: change train\.optimizer"),
        ({"optimizer": "adahessian"}, r"(?s)second derivatives.*adahessian.*next: change train\.optimizer"),
    ],
)
def test_wrong_values(tmp_path: Path, images: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(recipe(images, PLAIN | values), folder(tmp_path, "work"))


def test_optimizers_that_are_allowed_work_here(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, what needs one is not in the list."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        start({"optimizer": "adamwww"}, images)
    allowed = str(caught.value.allowed).split(", ")
    assert {"adamw", "sgd", "lion", "lamb"} < set(allowed)
    assert not [name for name in allowed if name.startswith(("fused", "bnb")) or name == "adahessian"]


def test_same_image_in_train_and_val(tmp_path: Path, images: Path) -> None:
    (images / "val" / "dark" / "copy.png").write_bytes((images / "train" / "dark" / "3.png").read_bytes())
    with pytest.raises(InputError, match="also in train"):
        train(recipe(images, PLAIN), folder(tmp_path, "work"))


@pytest.mark.parametrize(
    "values",
    [
        {"amp": "bfloat16"}, {"amp": "float16"}, {"amp": "float16", "clip_grad": 1.0}, {"amp": "float16", "on_nan": "skip"},
        {"channels_last": True}, {"amp": "bfloat16", "batch_size": 2, "global_batch": 4, "channels_last": True},
    ],
    ids=str,
)  # fmt: skip
def test_other_arithmetic(tmp_path: Path, images: Path, values: dict[str, Any]) -> None:
    """Nearly the same training; the weights handed on are float32 and as plain in memory as the others."""
    work, plain = folder(tmp_path, "work"), folder(tmp_path, "plain")
    chosen = PLAIN | {"lr": 1e-5}
    train(recipe(images, chosen | values), work)
    train(recipe(images, chosen), plain)
    losses = [float(rows(path)[-1]["train_loss"]) for path in (work, plain)]
    assert losses[0] != losses[1] or values == {"channels_last": True}
    assert abs(losses[0] - losses[1]) < 0.05, f"losses {losses}"
    weights = read_checkpoint(work / "checkpoint.pt").state_dict
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not any(
        torch.equal(weights[name], tensor) for name, tensor in start(chosen, images).items() if "qkv" in name
    )


def start(values: dict[str, Any], images: Path) -> dict[str, torch.Tensor]:
    """The weights that training begins with."""
    state = new_state(recipe(images, values), ("bright", "dark"), 3, World(0, 1, torch.device("cpu")))
    return dict(state.model.state_dict())


def test_channels_last_is_how_the_network_computes(images: Path) -> None:
    chosen = recipe(images, PLAIN | {"channels_last": True}, model="test_resnet")
    state = new_state(chosen, ("bright", "dark"), 3, World(0, 1, torch.device("cpu")))
    maps = [tensor for tensor in state.model.parameters() if tensor.dim() == 4 and min(tensor.shape[1:]) > 1]
    assert maps and all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in maps)


def test_cool_down(images: Path) -> None:
    """The cosine ends before the last epochs, which are at min_lr."""
    chosen = recipe(images, PLAIN | {"epochs": 6, "cooldown_epochs": 2, "lr": 1e-3, "min_lr": 1e-5})
    state = new_state(chosen, ("bright", "dark"), 3, World(0, 1, torch.device("cpu")))
    rates = []
    for update in range(18):
        state.scheduler.step_update(update)
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates[12:] == [1e-5] * 6 and rates[11] > 1e-5 and rates[0] == 1e-3


def test_weights_and_biases_is_optional(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"(?s)train\.wandb needs the package wandb.*pip install wandb"):
        train(recipe(images, PLAIN | {"wandb": "project"}), folder(tmp_path, "work"))


def test_weights_and_biases(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, with the package itself; the run's id is kept, so that going on adds to the same run."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    work = folder(tmp_path, "work")
    train(recipe(images, PLAIN | {"wandb": "project"}), work)
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{(work / 'wandb-id.txt').read_text()}"))


def test_shares_of_the_processes() -> None:
    """Every process has as many images, none twice; what is left out changes from epoch to epoch."""
    left_out = []
    for epoch in range(6):
        seen: list[int] = []
        for rank in range(3):
            sampler = EpochSampler(11, 0, World(rank, 3, torch.device("cpu")))
            sampler.epoch = epoch
            keys = list(sampler)
            assert len(keys) == len(sampler) == 3 and {key[0] for key in keys} == {epoch}
            seen += [index for _, index in keys]
        assert len(set(seen)) == 9
        left_out.append(frozenset(range(11)) - frozenset(seen))
    assert len(set(left_out)) > 1


def test_every_validation_image_is_in_one_process(images: Path) -> None:
    train_split, val_split = read_split(images, "train"), read_split(images, "val")
    spec = Preprocess(16, 16, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    found = []
    for rank in range(2):
        world = World(rank, 2, torch.device("cpu"))
        loaders = make_loaders(
            LEARNING["classification"], train_split, val_split, spec, TrainPart(batch_size=3, workers=0), world
        )
        found += [image.numpy().tobytes() for batch, _ in device_batches(loaders.val, world.device) for image in batch]
    images_of_all = load_batch(list(val_split.paths), spec).transpose(0, 3, 1, 2)
    assert sorted(found) == sorted(image.tobytes() for image in images_of_all)


def test_validation_images_are_the_preprocessed_ones(images: Path) -> None:
    spec = Preprocess(16, 16, 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    train_split, val_split = read_split(images, "train"), read_split(images, "val")
    world, part = World(0, 1, torch.device("cpu")), TrainPart(batch_size=3, workers=0)
    loaders = make_loaders(LEARNING["classification"], train_split, val_split, spec, part, world)
    found = torch.cat([batch for batch, _ in device_batches(loaders.val, world.device)])
    expected = load_batch(list(val_split.paths), spec)
    assert found.dtype == torch.uint8 and (found.permute(0, 2, 3, 1).numpy() == expected).all()
    normalised = Normalise(spec, world.device)(found).permute(0, 2, 3, 1).numpy()
    by_hand = (expected / 255.0 - np.array(spec.mean)) / np.array(spec.std)
    difference = np.abs(normalised - by_hand)
    assert difference.max() < 1e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"


@pytest.mark.parametrize("policy", ["rand-m10", "rand-m10-inc1", "augmix-m10-w3", "original", "v0r"])
def test_augmentations_take_every_level(images: Path, policy: str) -> None:
    """timm asks Pillow to posterize to 0 bits at the ends of its ranges; Pillow 13 refuses."""
    spec = Preprocess(16, 16, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    part = TrainPart(auto_augment=policy)
    dataset = TrainImages(read_split(images, "train"), spec, part)
    for epoch in range(40):
        for index in range(14):
            image, _ = dataset[(epoch, index)]
            assert image.shape == (3, 16, 16) and image.dtype == torch.uint8
    operations = [op for step in dataset.transform.transforms for op in posterize_operations(step)]
    assert operations, f"{policy} has no Posterize, so this test shows nothing"
    grey = Image.new("RGB", (4, 4), (200, 200, 200))
    assert all(op.aug_fn(grey, 0, fillcolor=0).getpixel((0, 0)) == (128, 128, 128) for op in operations)


def posterize_operations(step: Any) -> list[Any]:
    listed = getattr(step, "ops", None) or [op for policy in getattr(step, "policy", []) for op in policy]
    return [op for op in listed if op.name.startswith("Posterize")]


def test_two_processes(tmp_path: Path, images: Path) -> None:
    """Two ranks with gloo: one checkpoint, every val image counted once (7 by 2), the same result in both processes."""
    chosen = recipe(images, PLAIN | {"ema_decay": 0.9, "batch_size": 3, "lr": 1e-3}, model="test_resnet")
    work = folder(tmp_path, "work")
    (tmp_path / "recipe.json").write_text(json.dumps(chosen.model_dump(mode="json", by_alias=True)))
    log = tmp_path / "log.txt"
    ran = Forked(launch, train_and_record, 2, 0, work, log=log, environment={})
    assert ran.wait(120) == 0, log.read_text()
    notes = [json.loads((tmp_path / f"notes{rank}.json").read_text()) for rank in (0, 1)]
    assert len(notes[0]["statistics"]) > 10
    assert notes[0]["statistics"] == notes[1]["statistics"], "both must measure the network that is saved"
    assert notes[0]["top1"] == notes[1]["top1"] == pytest.approx(top1_of(work, images, chosen))
    assert [row["epoch"] for row in rows(work)] == ["1", "2"]
    assert log.read_text().count("epoch 1/2") == 1, "only rank 0 speaks"
    assert len(list((work / "tensorboard").iterdir())) == 1
    with pytest.raises(InputError, match="processes: 2"):
        train(chosen, work)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_backbone_lr_ratio(images: Path, optimizer: str) -> None:
    """The classifier learns at the schedule's rate, the rest at a hundredth of it; every weight in one group."""
    chosen = recipe(images, PLAIN | {"backbone_lr_ratio": 0.01, "lr": 0.1, "optimizer": optimizer})
    state = new_state(chosen, ("bright", "dark"), 3, World(0, 1, torch.device("cpu")))
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    for update, rate in ((0, 0.1), (6, 1e-5)):  # the cosine's ends
        state.scheduler.step_update(update)
        rates = {names[id(p)]: group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
        assert set(rates) == {name for name, p in state.model.named_parameters() if p.requires_grad}
        for name, value in rates.items():
            assert value == pytest.approx(rate * (1 if name.startswith("head.") else 0.01)), name


def test_a_fresh_classifier_must_be_trained(tmp_path: Path, images: Path) -> None:
    first, second = folder(tmp_path, "first"), folder(tmp_path, "second")
    train(recipe(images, PLAIN), first)
    for name in ("bright", "dark"):
        for split in ("train", "val"):
            (images / split / name).rename(images / split / f"very {name}")
    values = recipe(images, PLAIN | {"epochs": 0}, weights=first / "checkpoint.pt").model_dump(
        mode="json", by_alias=True
    )
    values["model"]["transfer"] = True
    with pytest.raises(InputError, match="the classifier has to be trained"):
        train(Recipe.model_validate(values), second)
    values["train"]["epochs"] = 1
    assert train(Recipe.model_validate(values), second)["epochs"] == 1
