"""Which of a network's results are the logits."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from calib.errors import InputError
from pipeline.parts.model import ModelPart


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
    named = named_outputs(result)
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


def named_outputs(result: Any) -> dict[str, Any]:
    """The parts of what a network returns, by key or by place; {} of a single tensor or something else."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    if isinstance(result, tuple | list):
        places = {str(place): value for place, value in enumerate(result)}
        return places | dict(zip(getattr(result, "_fields", ()), result, strict=False))
    return {}


def _what(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
