"""INT8 in PyTorch itself: Linear layers as a product of int8 matrices, with a static scale for what goes in.

Ranges are the largest magnitudes on calibration images; weights have a scale for each output. Which layers: the project's
policy `weights` (calib/precision/policy.py), as far as torch._int_mm goes. torch.compile fuses the quantization into what
comes before and the scales into what comes after.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from calib.precision.policy import Decision, Layer, decide

MOST = 127
FEWEST_ROWS = 16  # torch._int_mm on a GPU takes more rows than these,
MULTIPLE = 8  # and widths that are multiples of this
NO_CONVOLUTION = "PyTorch has no INT8 convolution for GPUs"


class Int8Linear(nn.Module):
    """A Linear layer (…, in) → (…, out) in INT8; `amax` is the largest magnitude that its input may have.

    Input of any floating-point type, output in `dtype`. Symmetric, rounded half to even.
    """

    def __init__(self, linear: nn.Linear, amax: float, dtype: torch.dtype):
        super().__init__()
        weight = linear.weight.detach().float()  # out in
        ranges = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        step, steps = max(amax, torch.finfo(torch.float32).tiny) / MOST, ranges / MOST
        self.inverse, self.dtype = 1 / step, dtype
        self.register_buffer("weight", (weight / steps[:, None]).round().to(torch.int8))
        self.register_buffer("scale", steps * step)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        levels = (rows * self.inverse).round().clamp(-MOST, MOST).to(torch.int8)
        y = torch._int_mm(levels, self.weight.t()).float() * self.scale  # the sums, up to 127²·in, do not fit FP16
        if self.bias is not None:
            y = y + self.bias
        return y.to(self.dtype).reshape(*x.shape[:-1], -1)


@dataclass
class Seen:
    """What a Linear layer got on the calibration images: rows of one image, and the largest magnitude."""

    rows: int = 0
    amax: float = 0.0


@dataclass(frozen=True)
class Quantized:
    """How many products are in INT8, of how many, and why not the others, by number of layers, most first."""

    int8: int
    layers: int
    left_out: dict[str, int] = field(default_factory=dict)


def calibrate(network: nn.Module, images: Tensor, batch: int) -> dict[str, Seen]:
    """Run `images` through the float32 network; by name of each Linear layer that was called."""
    found: dict[str, Seen] = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = found.setdefault(name, Seen())
        seen.rows = inputs[0].numel() // inputs[0].shape[-1] // inputs[0].shape[0]
        seen.amax = max(seen.amax, float(inputs[0].abs().amax()))

    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(partial(look, name)) for name, module in layers]
    try:
        with torch.inference_mode():
            for part in images.split(batch):
                network(part)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def decide_layers(network: nn.Module, seen: dict[str, Seen], batch: int) -> list[Decision]:
    """A decision for each Linear and Conv2d: the policy's, then what torch._int_mm cannot take at this batch.

    A Linear that was not called has lent its weight to a soft split, which computes it as a convolution.
    InputError where the policy leaves out every layer.
    """
    modules = dict(network.named_modules())
    layers = [
        _layer(name, module, modules, seen.get(name))
        for name, module in modules.items()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    return [_possible(decision, modules[decision.layer.name], seen, batch) for decision in decide(layers)]


def _layer(name: str, module: nn.Module, modules: dict[str, nn.Module], seen: Seen | None) -> Layer:
    product = isinstance(module, nn.Linear) and seen is not None
    made_by = name if product or isinstance(module, nn.Conv2d) else name.rpartition(".")[0]
    above = [made_by[:place] for place, letter in enumerate(made_by) if letter == "."] + [made_by]
    classes = tuple(type(modules[path]).__name__ for path in above)
    return Layer(
        name=name, operator="MatMul" if product else "Conv", module=name, classes=classes,
        weight_shape=tuple(module.weight.shape), one_row=seen is not None and seen.rows == 1,
    )  # fmt: skip


def _possible(decision: Decision, module: nn.Module, seen: dict[str, Seen], batch: int) -> Decision:
    if not decision.int8:
        return decision
    if decision.layer.operator == "Conv":
        return replace(decision, inputs=(), reason=NO_CONVOLUTION)
    assert isinstance(module, nn.Linear)
    rows = seen[decision.layer.name].rows * batch
    if rows <= FEWEST_ROWS:
        return replace(decision, inputs=(), reason=f"torch._int_mm takes more than {FEWEST_ROWS} rows")
    if module.in_features % MULTIPLE or module.out_features % MULTIPLE:
        return replace(decision, inputs=(), reason=f"torch._int_mm takes widths that are multiples of {MULTIPLE}")
    return decision


def quantize(network: nn.Module, decisions: list[Decision], seen: dict[str, Seen], dtype: torch.dtype) -> Quantized:
    """Replace the decided Linear layers of a float32 `network` in place; they give `dtype`."""
    left_out = Counter(decision.reason for decision in decisions if not decision.int8)
    for decision in decisions:
        if decision.int8:
            name = decision.layer.name
            linear = network.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            network.set_submodule(name, Int8Linear(linear, seen[name].amax, dtype))
    return Quantized(sum(of.int8 for of in decisions), len(decisions), dict(left_out.most_common()))
