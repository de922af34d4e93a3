"""Which module of a network keeps it from being exported."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

Inputs = tuple[Any, ...]
# What the exporter adds to every error: to report it elsewhere, and how.
_ADVICE = re.compile(
    r"(?i)github|create an (issue|error report)|open an? (new )?issue|report=True|next steps:|this is step \d"
)


def find_culprit(model: nn.Module, example: Tensor) -> tuple[str, nn.Module, str]:
    """Name, module and reason of the innermost part of `model` that `torch.export` refuses.

    `example` (B, …) is an input with B ≥ 2. Every module on the way down is exported alone, with the inputs that it gets
    from `example`; the search follows the first child that fails. ("", model, …) where no child fails alone.
    """
    reason = _refusal(model, (example,), len(example)) or "its parts are exported, the exporter fails on the whole"
    name, module = "", model
    inputs = _recorded_inputs(model, example)
    while True:
        failing = ((child, inputs[child]) for child in _children(name, module) if child in inputs)
        found = next(
            (
                (child, why)
                for child, seen in failing
                if (why := _refusal(model.get_submodule(child), seen, len(example)))
            ),
            None,
        )
        if found is None:
            return name, module, reason
        name, reason = found
        module = model.get_submodule(name)


def _children(name: str, module: nn.Module) -> list[str]:
    """Names of the modules right below `module` that are called themselves: containers are looked through."""
    names = []
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        names += _children(path, child) if isinstance(child, nn.ModuleList | nn.ModuleDict) else [path]
    return names


def _recorded_inputs(model: nn.Module, example: Tensor) -> dict[str, Inputs]:
    """Positional inputs of every submodule at its first call, by name; those called with keywords are left out."""
    seen: dict[str, Inputs] = {}

    def record(name: str, args: Inputs, kwargs: dict[str, Any]) -> None:
        if not kwargs:
            seen.setdefault(name, args)

    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: record(name, args, kwargs), with_kwargs=True
        )
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _refusal(module: nn.Module, inputs: Inputs, batch: int) -> str:
    """Why `torch.export` refuses `module` with a free batch, "" if it does not."""
    free = torch.export.Dim("batch")
    shapes = tuple(
        {0: free} if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch else None for value in inputs
    )
    try:
        torch.export.export(
            module, inputs, dynamic_shapes=(shapes,) if _takes_varargs(module) else shapes, strict=False
        )
    except Exception as error:  # the exporter passes on whatever the network's own code raises
        return first_lines(error)
    return ""


def _takes_varargs(module: nn.Module) -> bool:
    """`forward(*inputs)`: torch.export then wants the shapes one level deeper."""
    code = getattr(module.forward, "__code__", None)
    return bool(code is not None and code.co_flags & 0x04)


def is_data_dependent(error: BaseException) -> bool:
    """Whether the network decides in Python on a tensor's values: a trace would hold one of the two answers for ever."""
    return any("data-dependent" in str(one).lower() or "DataDependent" in type(one).__name__ for one in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, outermost first."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def first_lines(error: BaseException, count: int = 2) -> str:
    """The first telling lines of an error, for a message: the cause's, where the exporter wraps it in advice of its own."""
    while isinstance(error, OnnxExporterError) and error.__cause__ is not None:
        error = error.__cause__
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip() and not _ADVICE.search(line)]
    return f"{type(error).__name__}: " + " ".join(lines[:count])
