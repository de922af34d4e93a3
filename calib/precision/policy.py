"""Quantization policies: which inputs of which nodes get Q/DQ, and which nodes stay in FP32 in an FP16 graph.

A policy looks at a node's operator, at its constant operand, at its role and at the classes of the modules that made it.
docs/quantization.md shows what each policy costs and gains.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, get_args

from calib.errors import InputError

PolicyName = Literal["best", "weights", "+attention", "+residual", "full"]
Role = Literal["", "scores", "context", "residual"]
Outputs = Literal["", "convolutions", "weight layers"]
Kind = Literal["weight layer", "attention product", "residual sum", "other product"]

TOKEN_ATTENTIONS = ("TokenPerformer", "TokenTransformer")
WEIGHT_OPERATORS = ("Conv", "Gemm", "MatMul")
MIN_CHANNELS = 16  # engines' INT8 kernels compute 16 channels at a time
HEAD_DIMS = (16, 32, 64)  # TensorRT fuses INT8 attention for these, and for at most so many tokens
MAX_TOKENS = 512
MAX_SHOWN = 4  # reasons or names in a message


@dataclass(frozen=True)
class Layer:
    """One node as a policy sees it.

    `classes` are the modules around it, outermost first; `weight_shape` is that of its constant operand, () without
    one, and `weight_input` its place among the inputs. `one_row` is true where a Gemm or MatMul makes a single row per
    image. `role` is "scores" for Q·Kᵀ before a softmax, "context" for the softmax times V, "residual" for the sum of a
    branch and what went around it, the latter being input `skip`. `head_dim` and `tokens` are those of an attention,
    `branches` the names of the weight layers that a residual sum adds. `to_tokens` is true of a convolution whose map is
    only taken as tokens.
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
    branches: tuple[str, ...] = ()
    to_tokens: bool = False

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
class Rules:
    """What an engine's kernels ask of a decision. The default asks nothing, and is what TensorRT reads.

    `best` is the policy that measured best there. `any_head`: an attention in INT8 is fast with any head, not only where
    TensorRT fuses it. `any_convolution`: so is a convolution, however narrow, and depthwise too. `sums`: an INT8 convolution
    asks that both inputs of the residual sum behind it are quantized. `outputs`: which layers compute in INT8 only where their
    output is quantized as well. `float_kernel`: a token attention's kernel stays in floating point whatever the policy.
    """

    best: "PolicyName" = "weights"
    any_head: bool = False
    any_convolution: bool = False
    sums: bool = False
    outputs: Outputs = ""
    float_kernel: bool = False


NO_RULES = Rules()


@dataclass(frozen=True)
class Policy:
    """One row of the table: what is quantized beside the weight layers."""

    attention: bool = False
    residual: bool = False
    everything: bool = False

    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of layers that it names."""
        wanted: dict[Kind, bool] = {
            "weight layer": True, "attention product": self.attention, "residual sum": self.residual,
            "other product": self.everything,
        }  # fmt: skip
        return tuple(kind for kind, named in wanted.items() if named)


POLICIES: dict[PolicyName, Policy] = {
    "best": Policy(),  # that of the engine's rules
    "weights": Policy(),
    "+attention": Policy(attention=True),
    "+residual": Policy(residual=True),
    "full": Policy(attention=True, residual=True, everything=True),
}
assert tuple(POLICIES) == get_args(PolicyName)


def decide(
    layers: Sequence[Layer], policy: PolicyName = "weights", include: Sequence[str] = (), exclude: Sequence[str] = (),
    rules: Rules = NO_RULES, others: Sequence[Layer] = (),
) -> list[Decision]:  # fmt: skip
    """A decision for each product and each residual sum, in order.

    `weights`: Conv, Gemm and MatMul with a constant operand, except what the token attention's kernel feeds on: the
    performer's exponentials amplify quantization noise (docs/performer.md), so the soft-split convolutions in front of a
    token attention and its random features stay in high precision. `+attention`: also Q, K, softmax, V and the output of
    an attention that engines can fuse in INT8. `+residual`: also what goes around a residual branch. `full`: every
    product whole, inputs and output, whatever it feeds, and both inputs of every residual sum. `best`: that of `rules`.

    `rules` are those of the engine that reads the graph. `include` and `exclude` are regular expressions; one that matches
    (whole) the name or the module of a node overrules policy and rules, `exclude` last. InputError for a pattern without a
    match, here or among `others`, the layers of other forms of the graph; and where a kind that the policy names has no layer
    (`full`: where no weight layer is left). `cover` tells how many of each kind there are.
    """
    chosen = choose(layers, policy, include, exclude, rules, others)
    return [_overrule(decision, (), exclude) for decision in complete(chosen, rules)]


def choose(
    layers: Sequence[Layer], policy: PolicyName, include: Sequence[str], exclude: Sequence[str], rules: Rules = NO_RULES,
    others: Sequence[Layer] = (),
) -> list[Decision]:  # fmt: skip
    """`decide` without what the rules ask besides for the layers that are INT8: see `complete`."""
    named_policy = rules.best if policy == "best" else policy
    named = [layer for layer in layers if _may_be_named(layer)]
    _check_patterns(include, exclude, [*named, *(layer for layer in others if _may_be_named(layer))])
    decided = [_overrule(_decide(layer, POLICIES[named_policy], rules), include, exclude) for layer in named]
    _alarm(policy, decided)
    return decided


def _may_be_named(layer: Layer) -> bool:
    return layer.operator in WEIGHT_OPERATORS or bool(layer.role)


def _decide(layer: Layer, policy: Policy, rules: Rules) -> Decision:
    if rules.float_kernel and layer.kernel:
        return Decision(layer, "the token attention's kernel: its exponentials span too many powers of ten for INT8")
    if policy.everything:
        return Decision(layer, "everything", (0, 1), output=layer.role != "residual")
    if layer.role == "residual":
        return _residual(layer, policy)
    if layer.role:
        return _attention(layer, policy, rules)
    if not layer.weight_shape:
        return Decision(layer, "no constant operand")
    if layer.kernel:
        return Decision(layer, "feeds or belongs to the token attention's kernel")
    if layer.operator == "Conv" and rules.any_convolution:
        return _convolution(layer, rules)
    if layer.narrow:
        return Decision(layer, f"narrower than {MIN_CHANNELS} channels")
    if layer.depthwise:
        return Decision(layer, "depthwise: few products a channel, and engines' INT8 strays most here")
    if layer.one_row:
        return Decision(layer, "one row per image: a matrix-vector product gains nothing")
    return Decision(layer, "weight layer", (0, 1))


def _convolution(layer: Layer, rules: Rules) -> Decision:
    """Of any width, where the engine has kernels for all."""
    if rules.outputs and layer.to_tokens:
        return Decision(layer, "makes tokens, which stay in floating point: INT8 would have to round them first")
    return Decision(layer, "weight layer", (0, 1))


def complete(decided: Sequence[Decision], rules: Rules) -> list[Decision]:
    """With what the engine's rules ask besides for the layers that are INT8.

    Where an INT8 convolution feeds a residual sum, both inputs of it; where a convolution is INT8 only with a quantized output,
    that output, and the sum's.
    """
    convolutions = {of.layer.name for of in decided if of.int8 and of.layer.operator == "Conv"}
    return [_complete(of, convolutions, rules) for of in decided]


def _complete(decision: Decision, convolutions: set[str], rules: Rules) -> Decision:
    layer = decision.layer
    if layer.name in convolutions:
        return replace(decision, output=decision.output or bool(rules.outputs))
    if decision.int8 and layer.weight_shape and rules.outputs == "weight layers":
        return replace(decision, output=True)
    if not rules.sums or layer.role != "residual" or not convolutions & set(layer.branches):
        return decision
    reason = decision.reason if decision.int8 else "residual sum behind an INT8 convolution"
    return replace(decision, reason=reason, inputs=(0, 1), output=decision.output or bool(rules.outputs))


def _attention(layer: Layer, policy: Policy, rules: Rules) -> Decision:
    if not policy.attention:
        return Decision(layer, "attention product: no constant operand")
    if layer.tokens > MAX_TOKENS or (layer.head_dim not in HEAD_DIMS and not rules.any_head):
        heads = "any head" if rules.any_head else f"heads of {'/'.join(map(str, HEAD_DIMS))}"
        return Decision(
            layer, f"head dim {layer.head_dim}, {layer.tokens} tokens: INT8 attention is for {heads} and at most "
            f"{MAX_TOKENS} tokens",
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
        near = dict.fromkeys(name for pattern in unmatched for name in _nearest(pattern, modules))
        names = ", ".join(near or modules[:MAX_SHOWN])
        raise InputError(
            "quantize.include or quantize.exclude names no layer", got=", ".join(unmatched),
            allowed=f"regular expressions that match a whole name of a module; {'near it' if near else 'some'}: {names}",
            next_step="correct the pattern; or remove it first, then t2t-edge quantize --explain lists every layer",
        )  # fmt: skip


def _nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """The names most like what a pattern spells out."""
    spelt = re.sub(r"[^\w./]", "", re.sub(r"\\d[+*]?", "0", pattern.replace(".*", "")))
    return get_close_matches(spelt, names, MAX_SHOWN, cutoff=0.5)


@dataclass(frozen=True)
class Coverage:
    """`quantized` of the `named` layers of a kind; `left_out` are the reasons of the others, by how many, most first."""

    kind: Kind
    quantized: int
    named: int
    left_out: dict[str, int]

    def __str__(self) -> str:
        reasons = [f"{reason} ({count})" for reason, count in self.left_out.items()]
        more = f"; and {len(reasons) - MAX_SHOWN} reasons more" if len(reasons) > MAX_SHOWN else ""
        because = f", because: {'; '.join(reasons[:MAX_SHOWN])}{more}" if reasons else ""
        return f"{self.quantized} of the {self.named} {self.kind}s that the policy names{because}"


def cover(policy: PolicyName, decisions: Sequence[Decision]) -> list[Coverage]:
    """How many layers are quantized of each kind that the policy names, whether it takes all of them or not."""
    rows = []
    for kind in POLICIES[policy].kinds():
        named = [decision for decision in decisions if kind_of(decision.layer) == kind]
        left_out = Counter(decision.reason for decision in named if not decision.int8)
        rows.append(Coverage(kind, len(named) - left_out.total(), len(named), dict(left_out.most_common())))
    return rows


def kind_of(layer: Layer) -> Kind:
    """What a layer is to a policy."""
    if layer.role:
        return "residual sum" if layer.role == "residual" else "attention product"
    return "weight layer" if layer.weight_shape else "other product"


def _alarm(policy: PolicyName, decisions: Sequence[Decision]) -> None:
    """InputError where nothing of a kind that the policy names was quantized; `full` needs no more than weight layers."""
    rows = cover(policy, decisions)
    missing = [row for row in rows if row.quantized == 0 and (policy != "full" or row.kind == "weight layer")]
    if missing:
        left = dict.fromkeys(decision.reason for decision in decisions if not decision.int8)
        raise InputError(
            f"the policy {policy} quantizes no {' and no '.join(row.kind for row in missing)} of this network",
            got=f"{len(decisions)} products and sums; left out: {'; '.join(left) or 'none'}",
            allowed="a policy whose kinds of layers are there", next_step="change quantize.policy, include or exclude",
        )  # fmt: skip


def check_kept(policy: PolicyName, decided: Sequence[Decision], kept: Sequence[Decision]) -> None:
    """InputError where calibration left out every layer of a kind that the policy names and that was decided for."""
    pairs = zip(cover(policy, decided), cover(policy, kept), strict=True)
    gone = [now for before, now in pairs if before.quantized > 0 and now.quantized == 0]
    if gone:
        raise InputError(
            f"the policy {policy} quantizes no {' and no '.join(row.kind for row in gone)} of this network any more",
            got="; ".join(map(str, gone)), allowed="calibration images that leave some of them",
            next_step="look at the calibration images (t2t-edge calibrate), or change quantize.policy",
        )  # fmt: skip


def performer_kernel(layers: Sequence[Layer]) -> list[Layer]:
    """The nodes a `TokenPerformer` makes itself (soft-split moments and the kernel): pinned to FP32 in FP16 graphs."""
    return [layer for layer in layers if layer.classes and layer.classes[-1] == "TokenPerformer"]
