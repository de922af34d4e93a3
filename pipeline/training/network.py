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
from pipeline.parts.model import ModelPart


def create_network(part: ModelPart, num_classes: int, drop_path: float = 0.0) -> nn.Module:
    """The network of `part`: normalised images (B, 3, size, size) → logits (B, num_classes), on the CPU.

    A timm model has fresh weights; a factory's have those it gave them. InputError where there is no such model, where
    the factory fails, or where what it makes is no classifier of `num_classes` classes.
    """
    if part.factory is None:
        return _from_timm(part, num_classes, drop_path)
    if drop_path > 0:
        raise InputError(
            "drop path is a timm model's option, a factory has its own", got=drop_path,
            next_step="set train.drop_path: 0, and what the factory calls it in model.args",
        )  # fmt: skip
    model = _from_factory(part.factory, part.args)
    _check_logits(model, part, num_classes)
    return model


def classifier_names(model: nn.Module) -> set[str]:
    """Names of the last layer's weights, which hang on the number of classes.

    timm's models say which layer that is; of another model it is the last Linear or convolution it defines.
    """
    found = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(found, nn.Module):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        found = layers[-1] if layers else nn.Identity()
    inside = {id(tensor) for tensor in found.state_dict(keep_vars=True).values()}
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in inside}


def _from_timm(part: ModelPart, num_classes: int, drop_path: float) -> nn.Module:
    """A timm model with fresh weights. Networks without a fixed input size (ResNet) take any and are not told it."""
    name = str(part.name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        raise InputError(
            "there is no such model", got=name, allowed=f"a timm model, such as {', '.join(near or ['t2t_vit_14'])}",
            next_step="set model.name; all names: python -c 'import models, timm; print(timm.list_models())'",
        )  # fmt: skip
    options: dict[str, Any] = part.args | {"num_classes": num_classes}
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    try:
        try:
            return timm.create_model(name, img_size=part.image_size, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, **options)
    except (TypeError, ValueError) as error:
        if "drop_path_rate" in str(error):
            raise InputError(f"{name} has no drop path", got=drop_path, next_step="set train.drop_path: 0") from error
        raise InputError(
            f"{name} cannot be made as the recipe says", got=f"{error}", allowed=f"model.args {part.args}, image_size "
            f"{part.image_size} must be what the model takes", next_step="change model.args or model.image_size",
        ) from error  # fmt: skip


def _from_factory(factory: str, args: dict[str, Any]) -> nn.Module:
    """Import `package.module:callable` and call it with `args`. The recipe's owner says what code that runs."""
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
            f"model.factory {factory} makes no network", got=type(model).__name__, allowed="torch.nn.Module"
        )
    return model


def _find_callable(factory: str) -> Callable[..., Any]:
    module_name, _, attribute = factory.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # the installed command does not look in the current folder, `python -m pipeline` does
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
        found = reduce(getattr, attribute.split("."), module)
    except ImportError as error:
        raise InputError(
            f"model.factory names a module that cannot be imported: {module_name}", got=error,
            allowed="an installed package, or a .py file in this folder",
            next_step=f"pip install what holds {module_name}, or run from the folder of {module_name}.py",
        ) from error  # fmt: skip
    except AttributeError as error:
        public = [name for name in vars(module) if not name.startswith("_")]
        near = difflib.get_close_matches(attribute, public, n=5, cutoff=0.5) or sorted(public)[:8]
        raise InputError(
            f"model.factory names nothing in {module_name}", got=f"{attribute} ({error})", allowed=", ".join(near),
            next_step="change model.factory in the recipe",
        ) from error  # fmt: skip
    if not callable(found):
        raise InputError("model.factory names something that cannot be called", got=type(found).__name__)
    return found


def _signature(make: Callable[..., Any]) -> str:
    try:
        return f"{getattr(make, '__qualname__', make)}{inspect.signature(make)}"
    except ValueError:  # a builtin without a signature
        return "the arguments it takes"


def _check_logits(model: nn.Module, part: ModelPart, num_classes: int) -> None:
    """One image through the network: it must give one logit per class."""
    size, training = part.image_size, model.training
    try:
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # as above
        raise InputError(
            f"the network of {part.label} does not take images (1, 3, {size}, {size})",
            got=f"{type(error).__name__}: {error}", next_step="check model.image_size and model.args in the recipe",
        ) from error  # fmt: skip
    model.train(training)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (1, num_classes):
        raise InputError(
            f"the network of {part.label} gives no logits for {num_classes} classes", got=shape,
            allowed=f"a tensor (1, {num_classes})", next_step="set its number of classes in model.args",
        )  # fmt: skip
