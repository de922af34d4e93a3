"""A killed training goes on to the same bits, by hand or by torchrun; a loss that is not finite loses nothing."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from once import Once
from torch import Tensor
from trainings import EVERYTHING, PLAIN, Training, assert_same_training, folder, recipe, rows, tensors, write_images

from calib.errors import InputError
from pipeline import stages
from pipeline.artifact import read_artifact
from pipeline.parts.train import TrainPart
from pipeline.recipe import Recipe
from pipeline.run.kept import put_aside
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.distributed import World
from pipeline.training.loader import EpochSampler
from pipeline.training.network import create_network
from pipeline.training.not_finite import NotFinite
from pipeline.training.stage import train
from pipeline.training.trainer import Trainer, accumulation, fit_batch

pytestmark = pytest.mark.slow

# seven updates an epoch in one process, three in two; last.pt after every second
OFTEN = EVERYTHING | {"batch_size": 2, "save_every": 2, "keep_last": 3, "keep_best": True, "epochs": 2}

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are killed: on more threads, sums are in another order and bits are others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(once: Once) -> Path:
    return once("fault_images", write_images)


@pytest.fixture(scope="module")
def whole(once: Once, images: Path) -> Path:
    """A training in two processes that nothing interrupts."""
    return once("fault_whole", lambda folder: Training(folder, recipe(images, OFTEN), 2).finish()) / "work"


@pytest.mark.parametrize(
    "stop",
    [
        "1 update 4",  # rank 1, in the second epoch, an update after the last save
        "0 save 1",  # rank 0, half of last.pt written
    ],
)
def test_torchrun_brings_a_killed_process_back(tmp_path: Path, images: Path, whole: Path, stop: str) -> None:
    torchrun = stop == "1 update 4"  # once by the command itself
    training = Training(tmp_path / "killed", recipe(images, OFTEN), 2, restarts=2, torchrun=torchrun, STOP=stop)
    os.kill(training.wait_for_stop(), signal.SIGKILL)
    training.finish()
    assert_same_training(whole, training.work)
    weights = [read_checkpoint(path / "checkpoint.pt").state_dict for path in (whole, training.work)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [row["epoch"] for row in rows(training.work)] == ["1", "2"]


@pytest.mark.parametrize("stop", ["0 update 10", "0 save 2"])
def test_the_same_command_goes_on_after_a_kill(tmp_path: Path, images: Path, stop: str) -> None:
    """Everything random is on; killed within the second epoch, and within the first while saving."""
    chosen = recipe(images, OFTEN)
    train(chosen, folder(tmp_path, "whole"))
    killed = Training(tmp_path / "killed", chosen, 1, STOP=stop)
    os.kill(killed.wait_for_stop(), signal.SIGKILL)
    assert killed.process.wait() == -signal.SIGKILL
    position = torch.load(killed.work / "last.pt", weights_only=True)["position"]
    assert position[0] > 0, "this is about going on within an epoch"
    again = Training(tmp_path / "killed", chosen, 1)
    again.finish()
    assert_same_training(tmp_path / "whole", killed.work)
    assert (tmp_path / "whole" / "best.pt").exists() and (killed.work / "best.pt").exists()


def test_last_and_best_are_kept(tmp_path: Path, images: Path) -> None:
    """Nine saves of two epochs; the newest three stay, the newest is last.pt; best.pt is the best measured."""
    work = folder(tmp_path, "work")
    notes = train(recipe(images, OFTEN), work)
    names = sorted(path.name for path in (work / "kept").iterdir())
    assert names == ["epoch-0001-update-000004.pt", "epoch-0001-update-000006.pt", "epoch-0002-update-000000.pt"]
    newest = torch.load(work / "kept" / names[-1], weights_only=True)
    last = torch.load(work / "last.pt", weights_only=True)
    assert all(torch.equal(tensor, tensors(last)[name]) for name, tensor in tensors(newest).items())
    measured = [float(row["ema_top1"]) for row in rows(work)]
    assert notes["best_top1"] == max(measured) and notes["best_epoch"] == 1 + measured.index(max(measured))
    best = read_checkpoint(work / "best.pt").state_dict
    final = read_checkpoint(work / "checkpoint.pt").state_dict
    assert all(torch.equal(best[name], final[name]) for name in best) == (notes["best_epoch"] == 2)
    expected = folder(tmp_path, "expected")
    for name in ("last.pt", "metrics.csv"):
        shutil.copy(work / name, expected)
    kept = (work / "kept" / names[-1]).read_bytes()
    subprocess.run(
        ["cp", work / "kept" / names[0], work / "last.pt"], check=True
    )  # going back as docs/training.md says
    assert (work / "kept" / names[-1]).read_bytes() == kept, "the newest kept one must not become the older one"
    train(recipe(images, OFTEN), work)
    assert_same_training(expected, work)


def test_another_number_of_processes_goes_on_with_a_global_batch(
    tmp_path: Path, images: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes are killed for good; one takes the images of both. Without a global batch that is an error."""
    chosen = recipe(images, PLAIN | {"global_batch": 4, "batch_size": 4, "save_every": 2})
    killed = Training(tmp_path / "killed", chosen, 2, STOP="1 update 4")
    os.kill(killed.wait_for_stop(), signal.SIGKILL)
    assert killed.process.wait() != 0
    reached = torch.load(killed.work / "last.pt", weights_only=True)
    assert len(reached["history"]) == 1 and reached["position"][0] == 0
    assert reached["identity"]["train.batch_size"] == 2
    assert killed.log.read_text().count("2 processes: 2 images each instead of train.batch_size 4") == 1
    train(chosen, killed.work)
    assert "resumes with 1 process, begun with 2" in capsys.readouterr().out
    assert [row["epoch"] for row in rows(killed.work)] == ["1", "2"]
    assert torch.load(killed.work / "last.pt", weights_only=True)["identity"]["processes"] == 1
    with pytest.raises(InputError, match="processes: 2"):
        train(recipe(images, OFTEN), whole)


@pytest.mark.parametrize("at", [0, 3])
def test_updates_are_of_the_same_images_on_any_number_of_processes(images: Path, at: int) -> None:
    """From the first update and from one within the epoch: as many updates, each of the same 8 images of 61."""
    part = recipe(images, PLAIN | {"global_batch": 8, "batch_size": 4}).train
    updates = {processes: update_images(part, processes, at) for processes in (1, 2, 4, 8)}
    assert len(updates[1]) == 61 // 8 - at and all(len(update) == 8 for update in updates[1])
    assert all(found == updates[1] for found in updates.values())


def update_images(part: TrainPart, processes: int, first: int) -> list[set[int]]:
    """The images of each update of epoch 1 from update `first` on, as `Trainer` takes them from the sampler."""
    found: list[set[int]] = []
    for rank in range(processes):
        world = World(rank, processes, torch.device("cpu"))
        fitting = fit_batch(part, world)
        mine, sampler = fitting.batch_size * accumulation(fitting, world), EpochSampler(61, 0, world)
        updates = len(sampler) // mine
        sampler.start(1, first * mine, updates * mine)
        indices = [index for _, index in sampler]
        found = found or [set() for _ in range(updates - first)]
        for update, images_of in enumerate(found):
            images_of.update(indices[update * mine : (update + 1) * mine])
    return found


def plain_transformer(images: Path, **values: Any) -> Recipe:
    """Nothing random but the order of the images: the token performer has dropout, the token transformer has none."""
    same = {"optimizer": "sgd", "lr": 0.05, "random_resize_scale": [1.0, 1.0], "horizontal_flip": 0.0}
    return recipe(images, PLAIN | same | values, model="t2t_vit_t_mini")


def test_the_same_global_batch_is_the_same_training(tmp_path: Path, images: Path) -> None:
    """One process with batches of 4, one that accumulates 4 of 1, two processes that share the 4: the same losses and
    weights."""
    ways = {
        "one": plain_transformer(images, batch_size=4),
        "many": plain_transformer(images, batch_size=1, global_batch=4),
    }
    for name, chosen in ways.items():
        train(chosen, folder(tmp_path, name))
    two = Training(tmp_path / "two", plain_transformer(images, batch_size=4, global_batch=4), 2)
    two.finish()
    works = [tmp_path / "one", tmp_path / "many", two.work]
    losses = [[float(row["train_loss"]) for row in rows(work)] for work in works]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[2] == pytest.approx(losses[0], rel=1e-4), losses
    assert losses[0][1] != losses[0][0]
    one, many, both = (read_checkpoint(work / "checkpoint.pt").state_dict for work in works)
    moved = max(float((one[name] - start).abs().max()) for name, start in first_weights(ways["one"]).items())
    for other in (many, both):
        difference = max(float((one[name] - other[name]).abs().max()) for name in one)
        assert difference < 1e-3 * moved, f"weights differ by {difference:.1e}, training moved them by {moved:.1e}"


def first_weights(chosen: Recipe) -> dict[str, Tensor]:
    torch.manual_seed(chosen.train.seed)
    return dict(create_network(chosen.model, 2).state_dict())


@pytest.mark.parametrize(
    ("batch", "processes", "message"), [(3, 1, "a multiple of 3"), (2, 3, "a multiple of 6, or of 3"), (16, 1, "16")]
)
def test_wrong_global_batch(images: Path, tmp_path: Path, batch: int, processes: int, message: str) -> None:
    chosen = recipe(images, PLAIN | {"batch_size": batch, "global_batch": 4 if batch < 16 else 16})
    with pytest.raises(InputError, match=message):
        world = World(0, processes, torch.device("cpu"))
        accumulation(fit_batch(chosen.train, world), world)
        train(chosen, folder(tmp_path, "work"))


# --- a loss that is not finite ---------------------------------------------------------------------------------------


def make_nan(monkeypatch: pytest.MonkeyPatch, *when: int) -> None:
    """The loss is NaN in these calls, counted from 1."""
    compute, calls = Trainer.compute_loss, []

    def loss_or_nan(self: Trainer, *arguments: Any) -> Tensor:
        calls.append(1)
        loss = compute(self, *arguments)
        return loss * float("nan") if len(calls) in when else loss

    monkeypatch.setattr(Trainer, "compute_loss", loss_or_nan)


def test_nan_stops_and_keeps_the_batch(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = folder(tmp_path, "work")
    chosen = recipe(images, PLAIN | {"epochs": 3})
    with monkeypatch.context() as patch:
        make_nan(patch, 5)  # the second of the second epoch's three
        with pytest.raises(NotFinite, match=r"(?s)loss is nan in epoch 2, step 2.*the batch is in .*process0\.pt"):
            train(chosen, work)
    (kept,) = work.glob("not-finite-*.pt")
    content = torch.load(kept, weights_only=True)
    assert (content["epoch"], content["step"], content["process"], content["seed"]) == (2, 2, 0, 0)
    world = World(0, 1, torch.device("cpu"))
    sampler = EpochSampler(14, 0, world)
    assert content["image_indices"] == sampler.share(1)[4:8].tolist() and world.size == 1
    assert content["images"][0].shape == (4, 3, 16, 16) and content["images"][0].dtype == torch.uint8
    bright = content["images"][0].float().mean((1, 2, 3)) > 125
    assert bright.tolist() == [label == 0 for label in content["labels"][0].tolist()], "the images of these labels"
    train(chosen, work)  # what made it NaN is gone
    train(chosen, folder(tmp_path, "whole"))
    assert_same_training(tmp_path / "whole", work)


def test_nan_is_skipped(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The update is left out, also of batch-norm's statistics; it is counted; training ends with sound weights."""
    chosen = recipe(images, PLAIN | {"on_nan": "skip", "lr": 1e-3}, model="test_resnet")
    update, unchanged = Trainer._update, []

    def watched(self: Trainer, epoch: int, index: int, batches: Any, network: Any, state: Any) -> Any:
        before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
        result = update(self, epoch, index, batches, network, state)
        after = state.model.state_dict()
        unchanged.append(all(torch.equal(before[name], after[name]) for name in before))
        return result

    monkeypatch.setattr(Trainer, "_update", watched)
    make_nan(monkeypatch, 2, 3)
    train(chosen, folder(tmp_path, "work"))
    assert unchanged == [False, True, True, False, False, False]
    table = rows(tmp_path / "work")
    assert [row["skipped"] for row in table] == ["2", "0"] and float(table[0]["train_loss"]) > 0
    assert "epoch 1/2  step 2 left out: loss nan" in capsys.readouterr().out
    weights = read_checkpoint(tmp_path / "work" / "checkpoint.pt").state_dict
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_too_many_skipped(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_nan(monkeypatch, *range(2, 100))
    for limit, message in (
        (1, r"(?s)2 times in a row in epoch 1, step 3.*the batch is in"),
        (9, "every update of epoch 1"),
    ):
        chosen = recipe(images, PLAIN | {"on_nan": "skip", "max_skipped": limit, "seed": limit})
        with pytest.raises(NotFinite, match=message):
            train(chosen, folder(tmp_path, f"work{limit}"))


def test_nan_in_one_process_is_skipped_in_all(tmp_path: Path, images: Path) -> None:
    """Did the processes not agree, they would wait for each other for ever, or train different networks."""
    training = Training(tmp_path, recipe(images, PLAIN | {"on_nan": "skip", "batch_size": 2}), 2, NAN="1 2")
    training.finish()
    assert [row["skipped"] for row in rows(training.work)] == ["1", "0"], training.log.read_text()


def test_what_one_process_alone_sees_is_said(tmp_path: Path, images: Path) -> None:
    training = Training(tmp_path, recipe(images, PLAIN | {"batch_size": 1}), 2, NAN="1 3")
    assert training.process.wait(240) != 0
    log = training.log.read_text()
    assert "process 1 of 2: error: the training loss is nan in epoch 1, step 3" in log
    assert list(training.work.glob("not-finite-epoch1-step3-process1.pt"))


# --- the stage around it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["manifest", "moved away"])
def test_a_kill_after_training_trains_nothing_again(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Between the manifest and its folder's place: the same command only moves it."""
    chosen, said = recipe(images, PLAIN | {"epochs": 1}), list[str]()
    if where == "moved away":  # there is an older result, which a kill leaves moved away
        stages.run_stages(recipe(images, PLAIN | {"epochs": 1, "seed": 1}), tmp_path / "run", "train", said.append)

    def killed(finished: Path, final: Path) -> None:
        if where == "moved away":
            put_aside(final)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "put_in_place", killed)
        with pytest.raises(KeyboardInterrupt):
            stages.run_stages(chosen, tmp_path / "run", "train", said.append)
    monkeypatch.setattr("pipeline.training.stage.train", lambda *_: pytest.fail("trained again"))
    artifact = stages.run_stages(chosen, tmp_path / "run", "train", said.append)
    assert artifact.path("checkpoint.pt").is_file() and artifact.notes["epochs"] == 1
    kept = list((tmp_path / "run" / ".kept" / "train").iterdir()) if where == "moved away" else []
    assert all(read_artifact(place) for place in kept) and len(kept) == (where == "moved away")
    assert not any(place.name.startswith(".") for place in artifact.folder.iterdir())
    assert not list((tmp_path / "run").glob(".train*")), "nothing is left over"


def record_epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that are begun from now on."""
    epochs: list[int] = []
    run_epoch = Trainer.run_epoch

    def recorded(self: Trainer, epoch: int, *arguments: Any) -> None:
        epochs.append(epoch)
        run_epoch(self, epoch, *arguments)

    monkeypatch.setattr(Trainer, "run_epoch", recorded)
    return epochs


def test_what_decides_nothing_may_change_in_an_interrupted_run(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More workers, another way with NaN: the run goes on. Another learning rate: it starts afresh."""
    begun = recipe(images, PLAIN | {"epochs": 3})
    with monkeypatch.context() as patch:
        make_nan(patch, 5)
        with pytest.raises(NotFinite):
            stages.run_stages(begun, tmp_path / "run", "train", lambda _: None)
    begun_epochs = record_epochs(monkeypatch)
    changed = PLAIN | {"epochs": 3, "on_nan": "skip", "eval_every": 2, "keep_last": 2}
    stages.run_stages(recipe(images, changed), tmp_path / "run", "train", lambda _: None)
    assert begun_epochs == [1, 2]
    begun_epochs.clear()
    stages.run_stages(recipe(images, changed | {"lr": 0.01}), tmp_path / "run", "train", lambda _: None)
    assert begun_epochs == [0, 1, 2]


def test_another_training_over_an_interrupted_one_deletes_nothing(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set aside and named; with its own values again it goes on to the same bits."""
    begun, other = recipe(images, PLAIN | {"epochs": 3}), recipe(images, PLAIN | {"epochs": 1, "lr": 0.01})
    said: list[str] = []
    with monkeypatch.context() as patch:
        make_nan(patch, 5)
        with pytest.raises(NotFinite):
            stages.run_stages(begun, tmp_path / "run", "train", said.append)
    last = (tmp_path / "run" / ".train.partial" / "last.pt").read_bytes()
    stages.run_stages(other, tmp_path / "run", "train", said.append)
    (aside,) = (tmp_path / "run").glob(".train.partial.*")
    assert len(aside.suffix) == 9 and (aside / "last.pt").read_bytes() == last
    assert any(str(aside) in line for line in said), said
    epochs = record_epochs(monkeypatch)
    stages.run_stages(begun, tmp_path / "run", "train", said.append)
    assert epochs == [1, 2] and not aside.exists()
    train(begun, folder(tmp_path, "whole"))
    assert_same_training(tmp_path / "whole", tmp_path / "run" / "train")
