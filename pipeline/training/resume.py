"""`last.pt`, from which an interrupted training resumes, and older copies of it in `kept/`."""

import os
import shutil
from pathlib import Path
from typing import Any

from calib.errors import InputError
from pipeline.console.figures import counted
from pipeline.parts.train import DECIDES_NOTHING
from pipeline.recipe import Recipe
from pipeline.tasks.words import Words
from pipeline.training.checkpoint import read_file, save_atomically
from pipeline.training.distributed import World
from pipeline.training.log import EpochMetrics
from pipeline.training.state import Position, TrainingState

LAST, BEST, KEPT = "last.pt", "best.pt", "kept"
_COPIED_BYTES = 1 << 24  # at a time: last.pt can have hundreds of MB
_ONE_OR_MANY = ("processes", "train.batch_size")  # with train.global_batch, these may differ when training resumes


def save_last(folder: Path, state: TrainingState, words: Words, identity: dict[str, Any], keep: int) -> None:
    """Write `last.pt`, whole or not at all. With `keep` above 1 the newest `keep` states are in `kept/` as well."""
    position = state.position
    save_atomically(
        {
            "identity": identity, "history": [row.to_values(words) for row in state.history],
            "model": state.model.state_dict(),
            "ema": state.ema.module.state_dict() if state.ema is not None else None,
            "optimizer": state.optimizer.state_dict(), "scaler": state.scaler.state_dict(),
            "position": [position.update, list(position.loss_sums), position.skipped, position.seconds],
        },
        folder / LAST,
    )  # fmt: skip
    if keep > 1:
        _keep(folder, f"epoch-{state.epochs_done:04d}-update-{position.update:06d}.pt", keep)


def _keep(folder: Path, name: str, keep: int) -> None:
    """Copy `last.pt` into `kept/`, whole or not at all, and delete all but the newest `keep` copies.

    Not a hard link: to go back, a person copies an older file over `last.pt`, and `cp` would overwrite the linked file too.
    """
    kept = folder / KEPT
    kept.mkdir(exist_ok=True)
    partial = kept / f".{name}.partial"
    with (folder / LAST).open("rb") as last, partial.open("wb") as copy:
        shutil.copyfileobj(last, copy, _COPIED_BYTES)
        copy.flush()
        os.fsync(copy.fileno())
    partial.replace(kept / name)
    for old in sorted(kept.glob("epoch-*.pt"))[:-keep]:
        old.unlink()


def restore_last(
    folder: Path, state: TrainingState, words: Words, identity: dict[str, Any], world: World
) -> None:  # fmt: skip
    """Load `last.pt` into `state`. InputError where it is of another recipe, other images or another number of processes.

    With `train.global_batch` the number of processes may differ, because an update still has the same images.
    """
    path = folder / LAST
    content = read_file(path)
    again = f"start again (rm '{path}'), or continue with what it was begun with"
    found = content.get("identity")
    if not isinstance(found, dict):
        raise InputError(f"{path} is not an interrupted training", got=f"keys {sorted(content)}", next_step=again)
    changed = sorted(key for key in found.keys() | identity.keys() if found.get(key) != identity.get(key))
    if identity.get("train.global_batch") is not None and set(changed) <= set(_ONE_OR_MANY):
        if changed and world.rank == 0:
            before, now = found["processes"], identity["processes"]
            print(
                f"           resumes with {counted(now, 'process')}, begun with {before}: weights will differ by rounding",
                flush=True,
            )
        changed = []
    if changed:
        raise InputError(
            f"{path} is the interrupted training of something else",
            got="; ".join(f"{key}: {found.get(key)}" for key in changed[:5]),
            allowed="; ".join(f"{key}: {identity.get(key)}" for key in changed[:5]), next_step=again,
        )  # fmt: skip
    state.model.load_state_dict(content["model"])
    if state.ema is not None:
        state.ema.module.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    state.history = [EpochMetrics.from_values(row, words) for row in content["history"]]
    update, loss_sums, skipped, seconds = content["position"]
    state.position = Position(update, tuple(loss_sums), skipped, seconds)


def training_identity(recipe: Recipe, classes: tuple[str, ...], images: int, world: World) -> dict[str, Any]:
    """What the trained weights depend on, as plain values: not `workers`, or where a checkpoint lies."""
    values: dict[str, Any] = {"classes": list(classes), "train images": images, "processes": world.size}
    for name in ("model", "preprocess", "train"):
        part = getattr(recipe, name).model_dump(mode="json")
        values |= {f"{name}.{key}": value for key, value in part.items() if key not in (*DECIDES_NOTHING, "checkpoint")}
    return values
