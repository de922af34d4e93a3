"""Checkpoint files: ours hold model, image size, classes and preprocessing beside the weights; others' are read too."""

import argparse
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor

from calib.errors import InputError
from calib.preprocess import Preprocess
from pipeline.parts.model import ImageSize

FORMAT = 1
# The keys under which other training programs keep the weights, their moving average first: timm, T2T-ViT, others.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "net")
# Plain values that older training programs keep beside the weights (timm's `args`, a metric); none of them runs code.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace, np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType, scalar,
    (scalar, "numpy.core.multiarray.scalar"),
]  # fmt: skip
_SHOWN = 4  # names in an error message


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, on the CPU. `model` is `ModelPart.label`, `preprocess` is `Preprocess.to_dict()`."""

    model: str
    image_size: ImageSize
    classes: tuple[str, ...]
    preprocess: dict[str, Any]
    state_dict: dict[str, Tensor]


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """`torch.save` to a temporary file, flushed to the disk, then moved into place: whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)  # on a full disk it may be what fills it
        if isinstance(error.__context__, OSError):  # torch then speaks of positions in the file
            raise error.__context__ from None
        raise
    partial.replace(path)


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write `checkpoint` so that `torch.load(weights_only=True)` reads it."""
    content = {
        "format": FORMAT, "model": checkpoint.model, "image_size": checkpoint.image_size,
        "classes": list(checkpoint.classes), "preprocess": checkpoint.preprocess,
        "state_dict": {name: tensor.detach().cpu() for name, tensor in checkpoint.state_dict.items()},
    }  # fmt: skip
    save_atomically(content, path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one of our checkpoints; anything else is an InputError."""
    content = read_file(path)
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a checkpoint of this pipeline",
            got=f"format {content.get('format')!r}, keys {few(content)}", allowed=f"format {FORMAT}",
            next_step="to use other weights, set train.epochs: 0 and model.checkpoint in the recipe",
        )  # fmt: skip
    try:
        return Checkpoint(
            content["model"], content["image_size"], tuple(content["classes"]),
            Preprocess.from_dict(content["preprocess"]).to_dict(), content["state_dict"],
        )  # fmt: skip
    except KeyError as error:
        raise InputError(f"the checkpoint {path} is incomplete", got=f"no {error.args[0]!r}") from error


def read_file(path: Path) -> dict[str, Any]:
    """Read a .safetensors or torch file without running code from it; an InputError says why it cannot be read."""
    if not path.is_file():
        raise InputError("no such checkpoint", got=path, next_step="check the path (model.checkpoint in the recipe)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain values, or is damaged", got=_first_line(error),
            allowed="what torch.load(weights_only=True) reads, or .safetensors",
            next_step="in the program that wrote it, save only the weights: torch.save(model.state_dict(), 'weights.pt')",
        ) from error  # fmt: skip
    except Exception as error:  # safetensors and torch raise many kinds on a damaged file; the cause stays attached
        if isinstance(error, (MemoryError, PermissionError)):
            raise
        raise InputError(
            f"the checkpoint {path} cannot be read", got=f"{type(error).__name__}: {_first_line(error)}",
            allowed=".pt/.pth (torch.save) or .safetensors", next_step="copy or download it again",
        ) from error  # fmt: skip
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds no weights", got=type(content).__name__, allowed="a state dict")
    return dict(content)


def weights_of(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict inside what `read_file` returned, with names that have no `module.` of DataParallel."""
    found: Any = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(
            f"{path} holds no weights", got=f"keys {few(found)}",
            allowed=f"a state dict, or one under {', '.join(_WRAPPERS)}",
        )  # fmt: skip
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def few(names: Any) -> str:
    """The first names of a list, for a message."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "") if listed else "none"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
