"""Follow a network's products and sums while it runs, in the order in which its exported graph has them.

PyTorch sends every call of a function through a `TorchFunctionMode`. That reaches products that are no module, too: the
soft split's convolutions, attention, residual sums.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Kind = Literal["conv", "linear", "matmul", "sum"]
Operands = tuple[Tensor, Tensor]

_KINDS: dict[Callable[..., Any], Kind] = {
    F.conv2d: "conv",
    F.linear: "linear",
    torch.matmul: "matmul",
    torch.bmm: "matmul",
    Tensor.matmul: "matmul",
    Tensor.bmm: "matmul",
    Tensor.__matmul__: "matmul",
    torch.add: "sum",
    Tensor.add: "sum",
    Tensor.add_: "sum",
    Tensor.__add__: "sum",
    Tensor.__iadd__: "sum",
}


class Visitor(Protocol):
    """What is done at each call, which are counted from 0 in every run of the network."""

    def wants(self, call: int) -> bool:
        """Whether the call is looked at; else it is made as it stands."""

    def operands(self, call: int, kind: Kind, values: Operands, scale: float) -> Operands:
        """The operands to compute with. `scale` is what an attention multiplies its scores with, else 1."""

    def result(self, call: int, value: Tensor, *, biased: bool) -> Tensor:
        """The result to go on with: of a product without its bias, and once more with it."""


class Follower(TorchFunctionMode):
    """Hands products (convolution, linear, matmul, attention as two) and sums of two tensors to a visitor."""

    def __init__(self, visitor: Visitor):
        super().__init__()
        self.visitor = visitor
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and _is_plain(args, kwargs):
            return self._attention(args, kwargs)
        kind = _KINDS.get(func)
        if kind is None or len(args) < 2 or not all(isinstance(value, Tensor) for value in args[:2]):
            return func(*args, **kwargs)
        call = self._next(1)
        if not self.visitor.wants(call):
            return func(*args, **kwargs)
        values = self.visitor.operands(call, kind, (args[0], args[1]), 1.0)
        if kind == "linear":
            return self._linear(call, values, args[2] if len(args) > 2 else kwargs.get("bias"))
        if kind == "sum":
            return self.visitor.result(call, torch.add(*values, **kwargs), biased=True)  # in place, it would lose one
        return self.visitor.result(call, func(*values, *args[2:], **kwargs), biased=kind == "conv")

    def _linear(self, call: int, values: Operands, bias: Tensor | None) -> Tensor:
        """As graphs have it: a product, and a sum with the bias."""
        product = self.visitor.result(call, F.linear(*values), biased=False)
        return self.visitor.result(call, product if bias is None else product + bias, biased=True)

    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """softmax(q·kᵀ·scale)·v in its parts, where one of the two products is wanted."""
        call = self._next(2)
        if not (self.visitor.wants(call) or self.visitor.wants(call + 1)):
            return F.scaled_dot_product_attention(*args, **kwargs)
        q, k, v = args[:3]
        scale = float(kwargs.get("scale") or q.shape[-1] ** -0.5)
        if self.visitor.wants(call):
            q, k = self.visitor.operands(call, "matmul", (q, k), scale)
        scores = (q * scale) @ k.transpose(-2, -1)
        if self.visitor.wants(call):
            scores = self.visitor.result(call, scores, biased=False)
        weights = torch.softmax(scores, dim=-1)
        if not self.visitor.wants(call + 1):
            return weights @ v
        weights, v = self.visitor.operands(call + 1, "matmul", (weights, v), 1.0)
        return self.visitor.result(call + 1, weights @ v, biased=False)

    def _next(self, calls: int) -> int:
        first = self.count
        self.count += calls
        return first


def _is_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Neither mask nor dropout: what `_attention` computes."""
    return len(args) == 3 and not any(
        kwargs.get(name) for name in ("dropout_p", "is_causal", "enable_gqa")
    ) and kwargs.get("attn_mask") is None  # fmt: skip


@dataclass(frozen=True)
class Level:
    """How large a tensor's values are: the largest magnitude and the mean one."""

    highest: float
    mean: float


@dataclass
class Call:
    """One product or sum of the network. `constants` are the operands that do not depend on the image, by place.

    `parameter` names the parameter that its constant is, as it is or viewed, if it is one and no other call takes it.
    """

    kind: Kind
    scale: float
    operands: tuple[Level, Level]
    constants: dict[int, Tensor]
    results: dict[bool, Level] = field(default_factory=dict)  # with the bias, and without
    parameter: str | None = None


class Recorder:
    """A visitor that keeps what it sees. Autograd marks what depends on the image, which alone requires a gradient."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}

    def wants(self, call: int) -> bool:
        return True

    def operands(self, call: int, kind: Kind, values: Operands, scale: float) -> Operands:
        constants = {place: value.detach() for place, value in enumerate(values) if not value.requires_grad}
        self.calls[call] = Call(kind, scale, (_level(values[0]), _level(values[1])), constants)
        return values

    def result(self, call: int, value: Tensor, *, biased: bool) -> Tensor:
        self.calls[call].results[biased] = _level(value)
        return value


def record_calls(model: torch.nn.Module, images: Tensor) -> tuple[dict[int, Call], int]:
    """The products and sums of `model` (eval mode, no parameter requires a gradient) on normalised images, and how many
    calls there are in all. Those that no image takes part in are left out."""
    recorder = Recorder()
    follower = Follower(recorder)
    with torch.enable_grad(), follower:
        model(images.detach().requires_grad_())
    _name_parameters(model, list(recorder.calls.values()))
    return {number: call for number, call in recorder.calls.items() if len(call.constants) < 2}, follower.count


def _name_parameters(model: torch.nn.Module, calls: list[Call]) -> None:
    names = {_memory(value): name for name, value in model.named_parameters()}
    taken = [(call, names[_memory(value)]) for call in calls for value in call.constants.values()
             if _memory(value) in names]  # fmt: skip
    uses = Counter(name for _, name in taken)
    for call, name in taken:
        call.parameter = name if uses[name] == 1 else None


def _memory(value: Tensor) -> tuple[int, int]:
    """Where a tensor's numbers are, and how many: the same for all views of the whole of it."""
    return value.untyped_storage().data_ptr(), value.numel()


def _level(value: Tensor) -> Level:
    magnitude = value.detach().abs()
    return Level(float(magnitude.max()), float(magnitude.mean()))
