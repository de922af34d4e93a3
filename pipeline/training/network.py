"""The network of a recipe: a timm model by name (ours included), or what a user's own factory makes; which of its results are the
logits."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
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
from pipeline.parts.model import RGB_CHANNELS, ImageSize, ModelPart, shown
from pipeline.tasks.task import task_named
from pipeline.tasks.words import CLASSIFICATION


def create_network(
    part: ModelPart, num_classes: int, drop_path: float = 0.0, *, weights: Path | None = None, task: str = CLASSIFICATION.task
) -> nn.Module:  # fmt: skip
    """The network of `part`: normalised images (B, *part.image_shape) → logits (B, num_classes), on the CPU.

    Of another `task` than classification, logits have the shape that this says, such as (B, num_classes, H, W).

    A timm model has new weights, or those of the file `weights` as timm reads them; a factory's model has those that the factory
    gave it. InputError where there is no such model, where the factory fails, or where its network does not give such
    logits.
    """
    if part.factory is None:
        return select_output(_from_timm(part, num_classes, drop_path, weights), part)
    if drop_path > 0:
        raise InputError(
            "train.drop_path works with timm's models only, not with model.factory", got=drop_path, allowed="0",
            next_step="set train.drop_path: 0, and the factory's own option for it in model.args",
        )  # fmt: skip
    model = select_output(_from_factory(part.factory, part.args), part)
    _check_logits(model, part, num_classes, task)
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


def new_in_transfer(model: nn.Module) -> set[str]:
    """Names of the weights that other networks do not bring: the classifier's and, where the network has one, a decoder's."""
    decoder = getattr(model, "decoder_names", None)
    return classifier_names(model) | (set(decoder()) if callable(decoder) else set())


def own_size(part: ModelPart) -> ImageSize | None:
    """The size of the images in a timm network's own default configuration; None where it has none."""
    name = str(part.name)
    if name in VARIANTS:
        return VARIANTS[name].image_size
    size = (network_config(name) or {}).get("input_size") if part.name is not None else None
    if not size:
        return None
    height, width = int(size[-2]), int(size[-1])
    return height if height == width else (height, width)


def check_name(part: ModelPart) -> None:
    """InputError where `model.name` is none of timm's models, ours included."""
    name = part.name
    if name is not None and not timm.is_model(architecture(name)):
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
    if part.in_chans != RGB_CHANNELS:
        options["in_chans"] = part.in_chans
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    try:
        try:
            return timm.create_model(timm_name(name), img_size=part.known_size, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(timm_name(name), **options)
    except (TypeError, ValueError) as error:
        if "drop_path_rate" in str(error):
            raise InputError(f"{name} has no drop path", got=drop_path, next_step="set train.drop_path: 0") from error
        raise InputError(
            f"{name} cannot be made with model.args {part.args} and model.image_size {shown(part.known_size)}", got=error,
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


def _check_logits(model: nn.Module, part: ModelPart, num_classes: int, task: str) -> None:
    """InputError unless the network gives logits of the task's shape for one image."""
    shape, training = (1, *part.image_shape), model.training
    try:
        with torch.inference_mode():
            logits = logits_of(model.eval()(torch.zeros(shape)), part)
    except InputError:
        raise
    except Exception as error:  # the user's code again
        raise InputError(
            f"the network of {part.label} does not take images {shape}",
            got=f"{type(error).__name__}: {error}",
            next_step="check model.image_size, model.in_chans and model.args in the recipe",
        ) from error  # fmt: skip
    model.train(training)
    check_shape(logits, part, num_classes, task)


def check_shape(logits: Tensor, part: ModelPart, num_classes: int, task: str) -> None:
    """InputError unless `logits`, of one image, are of the task's shape."""
    found = tuple(logits.shape)
    wanted = (1, *task_named(task).output_shape(num_classes, part.image_shape[1:]))
    if found != wanted:
        raise InputError(
            f"the network of {part.label} does not give {num_classes} logits, one for each class"
            + (" of each pixel" if len(wanted) == 4 else ""), got=found, allowed=f"a tensor {wanted}",
            next_step=_what_to_change(found, wanted),
        )  # fmt: skip


def _what_to_change(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if len(found) == len(wanted) and found[:2] == wanted[:2]:
        return (
            "let it return torch.nn.functional.interpolate(logits, size=images.shape[2:], mode='bilinear', "
            "align_corners=False)"
        )
    if len(found) != len(wanted):
        return "take a network for the recipe's data.task, or change that"
    return "set its number of classes in model.args"


class _Select:
    """A hook on a network: its logits in place of all that it returns."""

    def __init__(self, part: ModelPart):
        self.part = part

    def __call__(self, model: nn.Module, inputs: Any, result: Any) -> Tensor:
        return logits_of(result, self.part)


def select_output(model: nn.Module, part: ModelPart) -> nn.Module:
    """`model`, which from now on gives the logits that `part.output` names: in training, evaluation and export alike.

    Its weights keep their names.
    """
    for key, hook in list(model._forward_hooks.items()):  # a factory may give the same network again
        if isinstance(hook, _Select):
            del model._forward_hooks[key]
    if part.output is not None:
        model.register_forward_hook(_Select(part))
    return model


def logits_of(result: Any, part: ModelPart) -> Tensor:
    """The tensor that `part.output` names in what a network returned; a single tensor as it is.

    Some networks give several in training only. InputError that lists what there is, where `part.output` names no tensor of
    it, or where there are several and it is not set.
    """
    named = _named_outputs(result)
    found = result if isinstance(result, Tensor) else named.get(str(part.output))
    if isinstance(found, Tensor):
        return found
    listed = ", ".join(f"{name} {_what(value)}" for name, value in named.items()) or _what(result)
    step = (
        "set model.output in the recipe to the name or number of the logits" if named else "let its forward return them"
    )
    raise InputError(
        f"the network of {part.label} " + ("gives no single tensor" if part.output is None else f"has no output {part.output}"),
        got=listed, allowed="logits (images, classes)", next_step=step,
    )  # fmt: skip


def _named_outputs(result: Any) -> dict[str, Any]:
    """The parts of what a network returns, by key or by place; {} of a single tensor or something else."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    if isinstance(result, tuple | list):
        places = {str(place): value for place, value in enumerate(result)}
        return places | dict(zip(getattr(result, "_fields", ()), result, strict=False))
    return {}


def _what(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
