"""Quantization policies: which inputs of which nodes get Q/DQ, and which nodes stay in FP32 in an FP16 graph.

A policy looks at a node's operator, at its constant operand, at its role and at the classes of the modules that made it.
docs/quantization.md shows what each policy costs and gains.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from calib.errors import InputError

PolicyName = Literal["weights", "+attention", "+residual", "full"]
Role = Literal["", "scores", "context", "residual"]

TOKEN_ATTENTIONS = ("TokenPerformer", "TokenTransformer")
WEIGHT_OPERATORS = ("Conv", "Gemm", "MatMul")
MIN_CHANNELS = 16  # engines' INT8 kernels compute 16 channels at a time
HEAD_DIMS = (16, 32, 64)  # TensorRT fuses INT8 attention for these, and for at most so many tokens
MAX_TOKENS = 512


@dataclass(frozen=True)
class Layer:
    """One node as a policy sees it.

    `classes` are the modules around it, outermost first; `weight_shape` is that of its constant operand, () without
    one, and `weight_input` its place among the inputs. `one_row` is true where a Gemm or MatMul makes a single row per
    image. `role` is "scores" for Q·Kᵀ before a softmax, "context" for the softmax times V, "residual" for the sum of a
    branch and what went around it, the latter being input `skip`. `head_dim` and `tokens` are those of an attention.
    """

    name: str
    operator: str
    module: str
    classes: tuple[str, ...]
    weight_shape: tuple[int, ...]
    one_row: bool
    weight_input: int = 1
    role: Role = ""
    skip: int = 0
    head_dim: int = 0
    tokens: int = 0

    @property
    def narrow(self) -> bool:
        """Fewer channels than INT8 kernels work in: a convolution's outputs, either side of a product."""
        sides = self.weight_shape[:1] if self.operator == "Conv" else self.weight_shape
        return bool(sides) and min(sides) < MIN_CHANNELS

    @property
    def depthwise(self) -> bool:
        """A convolution in which each output sees one input channel."""
        return self.operator == "Conv" and len(self.weight_shape) > 1 and self.weight_shape[1] == 1

    @property
    def kernel(self) -> bool:
        """A node that a token attention makes itself; the Linear layers inside it are modules of their own."""
        return bool(self.classes) and self.classes[-1] in TOKEN_ATTENTIONS


@dataclass(frozen=True)
class Decision:
    """Which inputs of a layer get Q/DQ (none: it is not quantized), whether its output does, and why."""

    layer: Layer
    reason: str
    inputs: tuple[int, ...] = ()
    output: bool = False

    @property
    def int8(self) -> bool:
        """Whether the layer is quantized."""
        return bool(self.inputs)


@dataclass(frozen=True)
class Policy:
    """One row of the table: what is quantized beside the weight layers."""

    attention: bool = False
    residual: bool = False
    everything: bool = False


POLICIES: dict[PolicyName, Policy] = {
    "weights": Policy(),
    "+attention": Policy(attention=True),
    "+residual": Policy(residual=True),
    "full": Policy(attention=True, residual=True, everything=True),
}
assert tuple(POLICIES) == get_args(PolicyName)


def decide(
    layers: Sequence[Layer], policy: PolicyName = "weights", include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[Decision]:
    """A decision for each product and each residual sum, in order.

    `weights`: Conv, Gemm and MatMul with a constant operand, except what the token attention's kernel feeds on: the
    performer's exponentials amplify quantization noise (docs/performer.md), so the soft-split convolutions in front of a
    token attention and its random features stay in high precision. `+attention`: also Q, K, softmax, V and the output of
    an attention that engines can fuse in INT8. `+residual`: also what goes around a residual branch. `full`: every
    product whole, inputs and output, whatever it feeds, and both inputs of every residual sum.

    `include` and `exclude` are regular expressions; one that matches (whole) the name or the module of a node overrules
    the policy, `exclude` last. InputError for a pattern without a match, and where nothing that the policy names is there.
    """
    decided = [_decide(layer, POLICIES[policy]) for layer in layers if layer.operator in WEIGHT_OPERATORS or layer.role]
    _check_patterns(include, exclude, [decision.layer for decision in decided])
    chosen = [_overrule(decision, include, exclude) for decision in decided]
    _alarm(policy, chosen)
    return chosen


def _decide(layer: Layer, policy: Policy) -> Decision:
    if policy.everything:
        return Decision(layer, "everything", (0, 1), output=layer.role != "residual")
    if layer.role == "residual":
        return _residual(layer, policy)
    if layer.role:
        return _attention(layer, policy)
    if not layer.weight_shape:
        return Decision(layer, "no constant operand")
    if layer.kernel:
        return Decision(layer, "feeds or belongs to the token attention's kernel")
    if layer.narrow:
        return Decision(layer, f"narrower than {MIN_CHANNELS} channels")
    if layer.depthwise:
        return Decision(layer, "depthwise: few products a channel, and engines' INT8 strays most here")
    if layer.one_row:
        return Decision(layer, "one row per image: a matrix-vector product gains nothing")
    return Decision(layer, "weight layer", (0, 1))


def _attention(layer: Layer, policy: Policy) -> Decision:
    if not policy.attention:
        return Decision(layer, "attention product: no constant operand")
    if layer.head_dim not in HEAD_DIMS or layer.tokens > MAX_TOKENS:
        return Decision(
            layer, f"head dim {layer.head_dim}, {layer.tokens} tokens: INT8 attention fuses for "
            f"{'/'.join(map(str, HEAD_DIMS))} and at most {MAX_TOKENS}",
        )  # fmt: skip
    return Decision(layer, "attention product", (0, 1), output=layer.role == "context")


def _residual(layer: Layer, policy: Policy) -> Decision:
    if not policy.residual:
        return Decision(layer, "residual sum")
    if layer.kernel:
        return Decision(layer, "feeds or belongs to the token attention's kernel")
    return Decision(layer, "residual sum: what goes around the branch", (layer.skip,))


def _overrule(decision: Decision, include: Sequence[str], exclude: Sequence[str]) -> Decision:
    for pattern in exclude:
        if _matches(pattern, decision.layer):
            return replace(decision, reason=f"exclude: {pattern}", inputs=(), output=False)
    for pattern in include:
        if _matches(pattern, decision.layer) and not decision.int8:
            return replace(decision, reason=f"include: {pattern}", inputs=(0, 1))
    return decision


def _matches(pattern: str, layer: Layer) -> bool:
    return bool(re.fullmatch(pattern, layer.name) or re.fullmatch(pattern, layer.module))


def _check_patterns(include: Sequence[str], exclude: Sequence[str], layers: Sequence[Layer]) -> None:
    """A pattern that matches nothing is a typing error, and would leave its owner believing that it does something."""
    unmatched = [p for p in (*include, *exclude) if not any(_matches(p, layer) for layer in layers)]
    if unmatched:
        modules = list(dict.fromkeys(layer.module for layer in layers if layer.module))
        raise InputError(
            "quantize.include or quantize.exclude names no layer", got=", ".join(unmatched),
            allowed=f"regular expressions that match a whole name of a module, such as {', '.join(modules[:4])} …",
            next_step="t2t-edge quantize --explain lists every layer",
        )  # fmt: skip


def _alarm(policy: PolicyName, decisions: Sequence[Decision]) -> None:
    """InputError where nothing of a kind that the policy names was quantized."""
    quantized = [decision.layer for decision in decisions if decision.int8]
    missing = []
    if not any(layer.weight_shape for layer in quantized):
        missing.append("weight layer")
    if POLICIES[policy].attention and not any(layer.role in ("scores", "context") for layer in quantized):
        missing.append("attention product")
    if POLICIES[policy].residual and not any(layer.role == "residual" for layer in quantized):
        missing.append("residual sum")
    if missing and policy != "full":
        left = dict.fromkeys(decision.reason for decision in decisions if not decision.int8)
        raise InputError(
            f"the policy {policy} quantizes no {' and no '.join(missing)} of this network",
            got=f"{len(decisions)} products and sums; left out: {'; '.join(left) or 'none'}",
            allowed="a policy whose kinds of layers are there", next_step="change quantize.policy, include or exclude",
        )  # fmt: skip


def performer_kernel(layers: Sequence[Layer]) -> list[Layer]:
    """The nodes a `TokenPerformer` makes itself (soft-split moments and the kernel): pinned to FP32 in FP16 graphs."""
    return [layer for layer in layers if layer.classes and layer.classes[-1] == "TokenPerformer"]
