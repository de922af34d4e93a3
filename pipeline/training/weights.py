"""Load a checkpoint file into the network of a recipe: strictly, or as the start of a transfer."""

from dataclasses import dataclass
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from calib.errors import InputError
from calib.preprocess import Preprocess
from models.zoo import BASELINES, FAMILY, SEGMENTATION
from pipeline.console.figures import counted
from pipeline.parts.model import ModelPart
from pipeline.tasks.words import CLASSIFICATION
from pipeline.training.checkpoint import FORMAT, Checkpoint, few, read_file, weights_of
from pipeline.training.network import classifier_names, create_network, new_in_transfer

POSITIONS = "pos_embed"  # timm's and upstream's name
_NAMED = 8  # weights in a note
MIN_LIKENESS = 0.5  # see `nearest_model`; a model less like the checkpoint is not suggested


@dataclass(frozen=True)
class Loaded:
    """`notes` name, a line each, the weights that are not the file's; `fresh_classifier`: the classifier is one of them."""

    model: nn.Module
    notes: tuple[str, ...]
    fresh_classifier: bool


def build_model(checkpoint: Checkpoint, part: ModelPart, task: str = CLASSIFICATION.task) -> nn.Module:
    """The network of one of our checkpoints, on the CPU, in eval mode, created as `part` says and not as the file says; of a part
    that leaves the size open it is the file's."""
    if part.image_size is None:
        part = part.model_copy(update={"image_size": checkpoint.image_size})
    model = create_network(part, len(checkpoint.classes), task=task)
    _check_fit(model, checkpoint.state_dict, f"the checkpoint of {checkpoint.model}", set())
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def load_checkpoint(
    part: ModelPart, classes: tuple[str, ...], spec: Preprocess, drop_path: float = 0.0, task: str = CLASSIFICATION.task
) -> Loaded:  # fmt: skip
    """The network of `part` with the weights of `part.checkpoint`, on the CPU, in eval mode.

    Reads our checkpoints, a plain state dict, or one wrapped as timm, the T2T-ViT authors and others do, with or without
    the `module.` of DataParallel; .pt/.pth/.pth.tar or .safetensors. Every key must fit, and classes and preprocessing
    that our checkpoints name must equal `classes` and `spec`. With `part.transfer` classes, preprocessing and image size
    may differ: the classifier is then new, and the position embedding resampled.
    """
    path = part.checkpoint
    assert path is not None, "asked for the weights of a recipe without model.checkpoint"
    content = read_file(path)
    if not part.transfer:
        _check_classes(content, path, classes)
        _check_preprocess(content, path, spec)
    model = create_network(part, len(classes), drop_path, task=task)
    weights = weights_of(content, path)
    notes: tuple[str, ...] = ()
    fresh: set[str] = set()
    if part.transfer:
        fresh = _without_decoder(model, weights) or _drop_other_classifier(
            model, weights, _other_classes(content, classes)
        )
        notes = _resample_positions(model, weights, part.positions)
    _check_fit(model, weights, str(path), fresh)
    model.load_state_dict(weights, strict=not fresh)
    if fresh:
        named = ", ".join(sorted(fresh)) if len(fresh) <= _NAMED else few(sorted(fresh))
        notes = (f"fresh for {counted(len(classes), 'class')}: {named}", *notes)
    return Loaded(model.eval(), notes, bool(fresh))


def say_loaded(loaded: Loaded) -> None:
    """Print which weights are not the file's."""
    for note in loaded.notes:
        print(f"           {note}")


def _other_classes(content: dict[str, Any], classes: tuple[str, ...]) -> bool:
    """Whether the file names its classes and they differ, if only in their order."""
    named = content.get("classes") if content.get("format") == FORMAT else None
    return named is not None and tuple(named) != classes


def _check_classes(content: dict[str, Any], path: Path, classes: tuple[str, ...]) -> None:
    if not _other_classes(content, classes):
        return
    named = content["classes"]
    odd = sorted(set(named) ^ set(classes))
    raise InputError(
        f"{path} was trained for other classes", got=f"{counted(len(named), 'class')}: {few(named)}",
        allowed=f"{counted(len(classes), 'class')}: {few(classes)} (only in one: {few(odd)})",
        next_step="point data.root at the images it was trained for, or set model.transfer: true and train",
    )  # fmt: skip


def _check_preprocess(content: dict[str, Any], path: Path, spec: Preprocess) -> None:
    """InputError where one of our checkpoints was trained with other preprocessing: accuracy would be lost silently."""
    trained = content.get("preprocess") if content.get("format") == FORMAT else None
    wanted = spec.to_dict()
    if trained is None or trained == wanted:
        return
    odd = [key for key in wanted if trained.get(key) != wanted[key]]
    raise InputError(
        f"{path} was trained with other preprocessing", got=", ".join(f"{key} {trained.get(key)}" for key in odd),
        allowed=", ".join(f"{key} {wanted[key]}" for key in odd),
        next_step="set preprocess and model.image_size as it was trained, or model.transfer: true and train",
    )  # fmt: skip


def _without_decoder(model: nn.Module, weights: dict[str, Tensor]) -> set[str]:
    """Where `weights` are those of a classifier that `model` has as its trunk: removes what the trunk has not, the file's own
    classifier; returns the names of the weights to be trained. Else nothing."""
    decoder = new_in_transfer(model) - classifier_names(model)
    trunk = model.state_dict().keys() - new_in_transfer(model)
    if not decoder or new_in_transfer(model) & weights.keys() or not trunk <= weights.keys():
        return set()
    for name in [*weights.keys() - trunk]:
        del weights[name]
    return new_in_transfer(model)


def _drop_other_classifier(model: nn.Module, weights: dict[str, Tensor], other_classes: bool) -> set[str]:
    """Remove the classifier from `weights` where it is for other classes; returns the names of the weights to be trained."""
    wanted, names = model.state_dict(), classifier_names(model)
    differs = any(name not in weights or weights[name].shape != wanted[name].shape for name in names)
    if not (differs or other_classes):
        return set()
    for name in names:
        weights.pop(name, None)
    return names


def _resample_positions(model: nn.Module, weights: dict[str, Tensor], positions: str) -> tuple[str, ...]:
    """Resample the position embedding in `weights` to the model's image size; returns a note where it changed."""
    wanted, given = model.state_dict().get(POSITIONS), weights.get(POSITIONS)
    if wanted is None or given is None or given.ndim != 3 or given.shape[1] == wanted.shape[1]:
        return ()
    old = isqrt(given.shape[1])
    prefix = given.shape[1] - old * old  # the class token, or none
    new = _grid(model, wanted.shape[1] - prefix)
    if given.shape[2] != wanted.shape[2] or new is None:
        return ()  # another kind of embedding, which `_check_fit` refuses
    grids = f"{POSITIONS} from {old}×{old} to {new[0]}×{new[1]} tokens"
    if positions == "sinusoid":
        if model.get_parameter(POSITIONS).requires_grad:
            raise InputError(
                "this model learns its position embedding, so there is no sinusoid to compute",
                got="model.positions: sinusoid", allowed="interpolate", next_step="change model.positions in the recipe",
            )  # fmt: skip
        weights[POSITIONS] = wanted
        return (f"{grids}: the sinusoid of the new size",)
    weights[POSITIONS] = resample_abs_pos_embed(
        given.float(), list(new), num_prefix_tokens=prefix, interpolation="bicubic", antialias=False
    )  # as upstream's `resize_pos_embed`
    return (f"{grids}: interpolated",)


def _grid(model: nn.Module, tokens: int) -> tuple[int, int] | None:
    """Rows and columns of a network's `tokens` tokens, as it says itself, or a square; None for another number."""
    grids = [getattr(module, "grid_size", None) for module in model.modules()]
    side = isqrt(max(tokens, 0))
    return next(
        (grid for grid in (*grids, (side, side)) if isinstance(grid, tuple) and grid[0] * grid[1] == tokens), None
    )


def _check_fit(model: nn.Module, weights: dict[str, Tensor], source: str, fresh: set[str]) -> None:
    """InputError unless names and shapes of `weights` are exactly the model's, apart from the `fresh` ones."""
    wanted = model.state_dict()
    missing, unexpected = sorted(wanted.keys() - weights.keys() - fresh), sorted(weights.keys() - wanted.keys())
    if missing or unexpected:
        raise InputError(
            f"{source} has other weights than the model",
            got=f"{len(missing)} missing: {few(missing)}; {len(unexpected)} not in the model: {few(unexpected)}",
            allowed=f"the {len(wanted)} of {type(model).__name__}", next_step=_advice(weights),
        )  # fmt: skip
    classifier = classifier_names(model)
    # classifier and positions last: they also differ where only classes or image size do
    for name in sorted(weights, key=lambda name: (name in classifier, name == POSITIONS)):
        got, want = tuple(weights[name].shape), tuple(wanted[name].shape)
        if got == want:
            continue
        if name in classifier and got[1:] == want[1:]:
            raise InputError(
                f"{source} has another number of classes", got=counted(got[0], "class"), allowed=counted(want[0], "class"),
                next_step="point data.root at the images it was trained for, or set model.transfer: true and train",
            )  # fmt: skip
        at_size = "set model.image_size to the checkpoint's, or model.transfer: true to take it to another size"
        raise InputError(
            f"{source} has weights of another shape", got=f"{name}: {got}", allowed=f"{name}: {want}",
            next_step=at_size if name == POSITIONS else _advice(weights),
        )  # fmt: skip


def _advice(weights: dict[str, Tensor]) -> str:
    """The next step for weights that do not fit: the model of the family, or baseline, that they are of or most like."""
    name, likeness = nearest_model(weights)
    if likeness == 1:
        return f"set model.name: {name} in the recipe, whose weights these are"
    if likeness >= MIN_LIKENESS:
        return f"check model.name in the recipe; nearest is {name} ({100 * likeness:.0f} % of the weights)"
    return "check model.name in the recipe; the weights are like none of `t2t-edge models`"


def nearest_model(weights: dict[str, Tensor]) -> tuple[str, float]:
    """The model most like `weights` among ours and the baselines, and how like it is, 0–1; 1 fits exactly.

    That is the share of tensors, of both together, whose name and shape agree. Of tensors whose shape depends on the number
    of classes or the image size only the name counts.
    """
    return max(
        ((name, _likeness(name, weights)) for name in (*FAMILY, *SEGMENTATION, *BASELINES)), key=lambda pair: pair[1]
    )


def _likeness(name: str, weights: dict[str, Tensor]) -> float:
    shapes, free = _layout(name)
    ours = {(key, None if key in free else shape) for key, shape in shapes.items()}
    theirs = {(key, None if key in free else tuple(value.shape)) for key, value in weights.items()}
    return len(ours & theirs) / len(ours | theirs)


@cache
def _layout(name: str) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Shapes of a model's weights by name, and the names of those whose shape depends on classes or image size."""
    with torch.device("meta"):
        model = timm.create_model(name)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}, classifier_names(model) | {POSITIONS}
