"""The network of a recipe: a timm model by name (ours included), or what a user's own factory makes."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import models  # noqa: F401  (registers our models with timm)
from calib.errors import InputError
from models.t2t_vit import VARIANTS
from pipeline.data.hub import architecture, network_config, timm_name
from pipeline.parts.model import ModelPart


def create_network(
    part: ModelPart, num_classes: int, drop_path: float = 0.0, *, weights: Path | None = None
) -> nn.Module:  # fmt: skip
    """The network of `part`: normalised images (B, 3, size, size) → logits (B, num_classes), on the CPU.

    A timm model has new weights, or those of the file `weights` as timm reads them; a factory's model has those that the factory
    gave it. InputError where there is no such model, where the factory fails, or where it does not return a classifier of
    `num_classes` classes.
    """
    if part.factory is None:
        return _from_timm(part, num_classes, drop_path, weights)
    if drop_path > 0:
        raise InputError(
            "train.drop_path works with timm's models only, not with model.factory", got=drop_path, allowed="0",
            next_step="set train.drop_path: 0, and the factory's own option for it in model.args",
        )  # fmt: skip
    model = _from_factory(part.factory, part.args)
    _check_logits(model, part, num_classes)
    return model


def import_from_here() -> None:
    """Find a factory's module in the current folder, too: `python -m pipeline` does, the installed command does not."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def classifier_names(model: nn.Module) -> set[str]:
    """Names of the classifier's weights, whose shape depends on the number of classes.

    timm's models name that layer; in another model it is the last Linear or Conv2d that it defines.
    """
    found = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(found, nn.Module):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        found = layers[-1] if layers else nn.Identity()
    inside = {id(tensor) for tensor in found.state_dict(keep_vars=True).values()}
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in inside}


def own_size(part: ModelPart) -> int | None:
    """The side of the square image in a timm network's own default configuration; None where it has none."""
    name = str(part.name)
    if name in VARIANTS:
        return VARIANTS[name].image_size
    size = (network_config(name) or {}).get("input_size") if part.factory is None else None
    return int(size[-1]) if size and size[-1] == size[-2] else None


def check_name(part: ModelPart) -> None:
    """InputError where `model.name` is none of timm's models, ours included."""
    if part.factory is not None:
        return
    name = str(part.name)
    if not timm.is_model(architecture(name)):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        raise InputError(
            "there is no such model", got=name, allowed=f"a timm model, such as {', '.join(near or ['t2t_vit_14'])}",
            next_step="set model.name; all names: python -c 'import models, timm; print(timm.list_models())'",
        )  # fmt: skip


def _from_timm(part: ModelPart, num_classes: int, drop_path: float, weights: Path | None) -> nn.Module:
    """A timm model. Networks without a fixed input size (ResNet) have no argument `img_size`."""
    check_name(part)
    name = str(part.name)
    options: dict[str, Any] = part.args | {"num_classes": num_classes}
    if weights is not None:  # the file itself, so that what is loaded is what was found
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights), "source": ""}}
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    try:
        try:
            return timm.create_model(timm_name(name), img_size=part.side, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(timm_name(name), **options)
    except (TypeError, ValueError) as error:
        if "drop_path_rate" in str(error):
            raise InputError(f"{name} has no drop path", got=drop_path, next_step="set train.drop_path: 0") from error
        raise InputError(
            f"{name} cannot be made with model.args {part.args} and model.image_size {part.side}", got=error,
            allowed="arguments and an image size that this model takes",
            next_step="change model.args or model.image_size in the recipe",
        ) from error  # fmt: skip


def _from_factory(factory: str, args: dict[str, Any]) -> nn.Module:
    """Import `package.module:callable` and call it with `args`: it is the recipe's own code, run without restriction."""
    make = _find_callable(factory)
    try:
        model = make(**args)
    except Exception as error:  # the user's code may raise anything; the cause stays attached
        raise InputError(
            f"model.factory {factory} failed", got=f"{type(error).__name__}: {error}", allowed=_signature(make),
            next_step="check model.args in the recipe; T2T_EDGE_TRACEBACK=1 shows where",
        ) from error  # fmt: skip
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model.factory {factory} does not return a network", got=type(model).__name__, allowed="torch.nn.Module",
            next_step="return the network from the factory, or change model.factory in the recipe",
        )  # fmt: skip
    return model


def _find_callable(factory: str) -> Callable[..., Any]:
    module_name, _, attribute = factory.partition(":")
    import_from_here()
    try:
        module = importlib.import_module(module_name)
        found = reduce(getattr, attribute.split("."), module)
    except ImportError as error:
        raise InputError(
            f"model.factory names a module that cannot be imported: {module_name}", got=error,
            allowed="an installed package, or a .py file in this folder",
            next_step=f"pip install the package that holds {module_name}, or run from the folder of {module_name}.py",
        ) from error  # fmt: skip
    except AttributeError as error:
        public = [name for name in vars(module) if not name.startswith("_")]
        near = difflib.get_close_matches(attribute, public, n=5, cutoff=0.5) or sorted(public)[:8]
        raise InputError(
            f"model.factory names nothing in {module_name}", got=f"{attribute} ({error})", allowed=", ".join(near),
            next_step="change model.factory in the recipe",
        ) from error  # fmt: skip
    if not callable(found):
        raise InputError(
            f"model.factory {factory} cannot be called", got=type(found).__name__, allowed="a function or a class",
            next_step="change model.factory in the recipe",
        )  # fmt: skip
    return found


def _signature(make: Callable[..., Any]) -> str:
    try:
        return f"{getattr(make, '__qualname__', make)}{inspect.signature(make)}"
    except ValueError:  # a builtin without a signature
        return "the arguments it takes"


def _check_logits(model: nn.Module, part: ModelPart, num_classes: int) -> None:
    """InputError unless the network gives one logit per class for one image."""
    size, training = part.side, model.training
    try:
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # the user's code again
        raise InputError(
            f"the network of {part.label} does not take images (1, 3, {size}, {size})",
            got=f"{type(error).__name__}: {error}", next_step="check model.image_size and model.args in the recipe",
        ) from error  # fmt: skip
    model.train(training)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (1, num_classes):
        raise InputError(
            f"the network of {part.label} does not give {num_classes} logits, one for each class", got=shape,
            allowed=f"a tensor (1, {num_classes})", next_step="set its number of classes in model.args",
        )  # fmt: skip
