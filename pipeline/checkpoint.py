"""Checkpoints: ours carry model name, image size, classes and preprocessing beside the weights; others are taken in."""

import difflib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import models  # noqa: F401  (registers our models with timm)
from calib.errors import InputError
from calib.preprocess import Preprocess

FORMAT = 1
_WRAPPERS = ("state_dict_ema", "state_dict", "model")  # where other training programs keep the weights; EMA first
_SHOWN = 4  # names of an error message


@dataclass(frozen=True)
class Checkpoint:
    """What training hands on. `preprocess` is `Preprocess.to_dict()`; `state_dict` is on the CPU."""

    model: str
    image_size: int
    classes: tuple[str, ...]
    preprocess: dict[str, Any]
    state_dict: dict[str, Tensor]


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """`torch.save` to a temporary file, flushed to the disk, then moved into place: whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
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
            got=f"format {content.get('format')!r}, keys {_few(content)}", allowed=f"format {FORMAT}",
            next_step="to use other weights, set train.epochs: 0 and model.checkpoint in the recipe",
        )  # fmt: skip
    try:
        return Checkpoint(
            content["model"], content["image_size"], tuple(content["classes"]),
            Preprocess.from_dict(content["preprocess"]).to_dict(), content["state_dict"],
        )  # fmt: skip
    except KeyError as error:
        raise InputError(f"the checkpoint {path} is incomplete", got=f"no {error.args[0]!r}") from error


def build_model(checkpoint: Checkpoint) -> nn.Module:
    """The network of one of our checkpoints, on the CPU, in eval mode."""
    model = create_network(checkpoint.model, checkpoint.image_size, len(checkpoint.classes))
    _load_strictly(model, checkpoint.state_dict, f"the checkpoint of {checkpoint.model}")
    return model.eval()


def load_checkpoint(path: Path, model_name: str, image_size: int, classes: tuple[str, ...]) -> nn.Module:
    """A network with the weights of any checkpoint, on the CPU, in eval mode.

    Ours, a plain state dict, or one wrapped as timm and others do (`state_dict_ema`, `state_dict`, `model`), with or
    without the `module.` of DistributedDataParallel; .pt/.pth or .safetensors. Every key must fit.
    """
    content = read_file(path)
    named = content.get("classes")
    if content.get("format") == FORMAT and named is not None and tuple(named) != classes:
        odd = sorted(set(named) ^ set(classes))
        raise InputError(
            f"{path} was trained for other classes", got=f"{len(named)} classes: {_few(named)}",
            allowed=f"{len(classes)} classes: {_few(classes)} (only in one: {_few(odd)})",
            next_step="point data.root at the images it was trained for",
        )  # fmt: skip
    model = create_network(model_name, image_size, len(classes))
    _load_strictly(model, _weights(content, path), str(path))
    return model.eval()


def create_network(name: str, image_size: int, num_classes: int, drop_path: float = 0.0) -> nn.Module:
    """A timm model with fresh weights. Networks without a fixed input size (ResNet) take any and are not told it."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        raise InputError(
            "there is no such model", got=name, allowed=f"a timm model, such as {', '.join(near or ['t2t_vit_14'])}",
            next_step="set model.name; all names: python -c 'import models, timm; print(timm.list_models())'",
        )  # fmt: skip
    options: dict[str, Any] = {"num_classes": num_classes}
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    try:
        try:
            return timm.create_model(name, img_size=image_size, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise InputError(f"{name} has no drop path", got=drop_path, next_step="set train.drop_path: 0") from error


def read_file(path: Path) -> dict[str, Any]:
    """Read a .safetensors or torch file without running code from it; an InputError says why it cannot be read."""
    if not path.is_file():
        raise InputError("no such checkpoint", got=path, next_step="check the path (model.checkpoint in the recipe)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain values, or is damaged", got=_first_line(error),
            allowed="what torch.load(weights_only=True) reads, or .safetensors",
            next_step="where it came from, save the weights alone: torch.save(model.state_dict(), 'weights.pt')",
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


def _weights(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict inside `content`, without `module.` prefixes."""
    found: Any = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(
            f"{path} holds no weights", got=f"keys {_few(found)}",
            allowed=f"a state dict, or one under {', '.join(_WRAPPERS)}",
        )  # fmt: skip
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _load_strictly(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    wanted = model.state_dict()
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or unexpected:
        raise InputError(
            f"{source} has other weights than the model",
            got=f"{len(missing)} missing: {_few(missing)}; {len(unexpected)} not in the model: {_few(unexpected)}",
            allowed=f"the {len(wanted)} of {type(model).__name__}", next_step="check model.name in the recipe",
        )  # fmt: skip
    differing = [name for name in wanted if weights[name].shape != wanted[name].shape]
    head = {id(tensor) for tensor in _classifier(model).state_dict(keep_vars=True).values()}
    head_names = {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in head}
    for name in differing:
        got, want = tuple(weights[name].shape), tuple(wanted[name].shape)
        if name in head_names and got[1:] == want[1:]:
            raise InputError(
                f"{source} has another number of classes", got=f"{got[0]} classes", allowed=f"{want[0]} classes",
                next_step="point data.root at the images it was trained for",
            )  # fmt: skip
        raise InputError(
            f"{source} has weights of another shape ({len(differing)} of {len(wanted)})", got=f"{name}: {got}",
            allowed=f"{name}: {want}", next_step="check model.name and model.image_size in the recipe",
        )  # fmt: skip
    model.load_state_dict(weights)


def _classifier(model: nn.Module) -> nn.Module:
    """The last layer (timm's name for it); where a model has several or none, an empty stand-in."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    return found if isinstance(found, nn.Module) else nn.Identity()


def _few(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "") if listed else "none"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
