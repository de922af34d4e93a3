"""Small trainings: images, recipes, what two of them must have in common; and trainings in processes of their own, which
torchrun starts and starts again."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from processes import Forked
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.recipe import Recipe
from pipeline.training import checkpoint
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.distributed import open_world
from pipeline.training.stage import train
from pipeline.training.trainer import Trainer
from pipeline.training.weights import build_model

ROOT = Path(__file__).parents[1]
EVERYTHING = {  # every random part is on: a continuation must repeat all of them
    "epochs": 3, "batch_size": 4, "lr": 1e-3, "warmup_epochs": 1, "mixup": 0.8, "cutmix": 1.0, "drop_path": 0.3,
    "auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5, "random_resize_scale": [0.5, 1.0], "ema_decay": 0.9,
    "clip_grad": 1.0, "workers": 0,
}  # fmt: skip
PLAIN = {
    "epochs": 2, "batch_size": 4, "warmup_epochs": 0, "mixup": 0, "cutmix": 0, "auto_augment": None,
    "random_erasing": 0, "drop_path": 0, "ema_decay": 0, "workers": 0, "lr": 5e-4, "random_resize_scale": [0.08, 1.0],
    "clip_grad": None,
}  # fmt: skip
PATIENCE = 240  # seconds until a test gives up on a slow machine; nothing waits so long where all is well


def write_images(root: Path) -> Path:
    """14 train and 7 val images of two classes, 20×24 pixels: bright ones and dark ones."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 14), ("val", 7)):
        for index in range(count):
            name, low = (("bright", 120), ("dark", 0))[index % 2]
            (root / split / name).mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(low, low + 130, (20, 24, 3), dtype=np.uint8)
            cv2.imwrite(str(root / split / name / f"{index}.png"), pixels)
    return root


def recipe(root: Path, values: dict[str, Any], model: str = "t2t_vit_mini", weights: Path | None = None) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "data": {"name": "tiny", "root": str(root)},
        "model": {"name": model, "image_size": 16, "checkpoint": weights},
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear"}, "train": values, "build": [],
    })  # fmt: skip


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a nested dict, by its path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if not isinstance(value, dict):
        return {}
    return {path: tensor for key, item in value.items() for path, tensor in tensors(item, f"{name}/{key}").items()}


def assert_same_training(first: Path, second: Path) -> None:
    """Weights, average, optimizer and metrics of two trainings, to the last bit."""
    one, two = (tensors(torch.load(path / "last.pt", weights_only=True)) for path in (first, second))
    assert one.keys() == two.keys() and len(one) > 100
    differing = [name for name in one if not torch.equal(one[name], two[name])]
    assert not differing, f"{len(differing)} of {len(one)} tensors differ, such as {differing[:3]}"
    names = ("epoch", "lr", "train_loss", "val_top1", "ema_top1")
    measured = [[[row[name] for name in names] for row in rows(path)] for path in (first, second)]
    assert measured[0] == measured[1]


def drive(work: Path) -> None:
    """The training itself, which stops for good at the place that STOP names, once: `<rank> <where> <how often passed before>`.

    `update` is before an update, `save` is while last.pt is being written. Its process id then stands in `stopped`. NAN is
    `<rank> <update, from 1>` whose loss is made NaN in that process alone.
    """
    torch.set_num_threads(1)
    rank, where, count = os.environ["STOP"].split() if "STOP" in os.environ else ("-1", "", "0")
    mine, left = int(rank) == int(os.environ.get("RANK", 0)), int(count)
    nan_rank, nan_update = (int(word) for word in os.environ.get("NAN", "-1 -1").split())
    update, compute_loss, torch_save = Trainer._update, Trainer.compute_loss, torch.save
    updates = 0

    def stop_at(place: str) -> None:
        nonlocal left
        if where == place and mine and not (work.parent / "stopped").exists():
            left -= 1
            if left < 0:
                partial = work.parent / ".stopped"
                partial.write_text(str(os.getpid()))
                partial.replace(work.parent / "stopped")
                time.sleep(600)

    def stopping_update(self: Trainer, *arguments: Any) -> Any:
        nonlocal updates
        stop_at("update")
        updates += 1
        return update(self, *arguments)

    def loss_or_nan(self: Trainer, *arguments: Any) -> Any:
        loss = compute_loss(self, *arguments)
        here = nan_rank == int(os.environ.get("RANK", 0)) and nan_update == updates
        return loss * float("nan") if here else loss

    def stopping_save(content: Any, file: Any) -> None:
        if "optimizer" in content:
            file.write(b"half of it")
            file.flush()
            stop_at("save")
            file.seek(0)
        torch_save(content, file)

    Trainer.compute_loss = loss_or_nan  # type: ignore[method-assign]
    Trainer._update, checkpoint.torch.save = stopping_update, stopping_save  # type: ignore[method-assign]
    train(Recipe.model_validate(json.loads((work.parent / "recipe.json").read_text())), work)


def train_and_record(work: Path) -> None:
    """A training by one of two ranks; its notes, and sums of the buffers of each network that it measured, beside `work`."""
    torch.set_num_threads(1)
    measure = Trainer.measure
    statistics: list[float] = []

    def recorded(self: Trainer, models: Any) -> Any:
        measured = measure(self, models)
        statistics.extend(float(buffer.double().sum()) for model in models for buffer in model.buffers())
        return measured

    Trainer.measure = recorded  # type: ignore[method-assign]  # in this process alone
    notes = train(Recipe.model_validate(json.loads((work.parent / "recipe.json").read_text())), work)
    (work.parent / f"notes{os.environ['RANK']}.json").write_text(json.dumps(notes | {"statistics": statistics}))


def train_quantized(ready: Path, work: Path) -> None:
    """Quantization-aware training of the network in `ready`, by each rank; leaves `<rank>.pt` in `work`."""
    import onnx  # here: fresh ranks of torchrun import this module, and train without these

    from calib.calibration import load_calibration_set
    from pipeline.quantize.qat_stage import make_student
    from pipeline.quantize.qat_training import train_student

    torch.set_num_threads(1)
    recipe = Recipe.model_validate(json.loads((work / "recipe.json").read_text()))
    before = read_checkpoint(ready / "checkpoint.pt")
    calibration = load_calibration_set(ready / "calibration.npz", recipe.preprocess_spec())
    student, _ = make_student(recipe, before, onnx.load(ready / "fp32.onnx"), calibration)
    with open_world() as world:
        world.wait()
    with open_world() as world:  # as after the training stage: a second time in the same processes
        if world.rank == 1:  # what another machine's rounding may do: rank 0's ranges are everybody's
            for _, buffer in student.named_buffers():
                buffer.mul_(1.5)
        trained = train_student(recipe, student, build_model(before, recipe.model), work, world)
    torch.save({"state": student.state_dict(), "top1": trained.after_score}, work / f"{os.environ['RANK']}.pt")


def launch(call: Callable[..., None], processes: int, restarts: int, *arguments: Any) -> None:
    """What torchrun does, by its own code: `call(*arguments)` in each of so many ranks, which are forked."""
    place = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=call.__name__, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=restarts, start_method="fork", monitor_interval=0.1, local_addr="localhost",
    )  # fmt: skip
    elastic_launch(place, call)(*arguments)


class Training:
    """One training in `folder`/work; `told` is for `drive`. Several processes are started as torchrun starts them.

    With `torchrun` it is the command itself, and its ranks are fresh processes.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, processes: int, restarts: int = 0, torchrun: bool = False, **told: str
    ):
        self.folder, self.work, self.log = folder, folder / "work", folder / "log.txt"
        self.work.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json", by_alias=True)))
        self.log.write_text("")
        self.process: Forked | subprocess.Popen[bytes]
        if torchrun:
            self.process = self._torchrun(processes, restarts, told)
        elif processes > 1:
            self.process = Forked(launch, drive, processes, restarts, self.work, log=self.log, environment=told)
        else:
            self.process = Forked(drive, self.work, log=self.log, environment=told)

    def _torchrun(self, processes: int, restarts: int, told: dict[str, str]) -> "subprocess.Popen[bytes]":
        driver = self.folder / "driver.py"
        driver.write_text(
            "import sys\nfrom pathlib import Path\nfrom trainings import drive\ndrive(Path(sys.argv[1]))\n"
        )
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += [f"--max-restarts={restarts}", str(driver), str(self.work)]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | told
        with self.log.open("w") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def wait_for_stop(self) -> int:
        """The id of the process that has stopped where it was told to."""
        return int(self._wait_for(self.folder / "stopped").read_text())

    def _wait_for(self, path: Path) -> Path:
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(f"no {path.name}; {self.log.read_text()}")
            time.sleep(0.05)
        return path

    def finish(self) -> None:
        """Wait for the end; it must be a good one."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"not finished after {PATIENCE} s; {self.log.read_text()}")
        assert status == 0, self.log.read_text()
