"""Quantization policies: which nodes of a graph get INT8 inputs, and which must stay in FP32 in an FP16 graph.

A policy looks at a node's operator, at whether an operand is constant, and at the classes of the modules that made it.
"""

from dataclasses import dataclass

TOKEN_ATTENTIONS = ("TokenPerformer", "TokenTransformer")
WEIGHT_OPERATORS = ("Conv", "Gemm", "MatMul")
MIN_CHANNELS = 16  # engines' INT8 kernels compute 16 channels at a time; modelopt leaves narrower layers out as well


@dataclass(frozen=True)
class Layer:
    """One node as a policy sees it.

    `classes` are the modules around it, outermost first; `weight_shape` is that of its constant operand, () without
    one; `one_row` is true where a Gemm or MatMul makes a single row per image.
    """

    name: str
    operator: str
    module: str
    classes: tuple[str, ...]
    weight_shape: tuple[int, ...]
    one_row: bool

    @property
    def narrow(self) -> bool:
        """Fewer input or output channels than INT8 kernels work in."""
        return bool(self.weight_shape) and min(self.weight_shape[:2]) < MIN_CHANNELS


@dataclass(frozen=True)
class Decision:
    """Whether a layer is quantized, and why."""

    layer: Layer
    int8: bool
    reason: str


def weights_policy(layers: list[Layer]) -> list[Decision]:
    """The default: Conv, Gemm and MatMul with a constant operand, except what the token attention's kernel feeds on.

    The performer's exponentials amplify quantization noise (docs/performer.md): the soft-split convolutions in front of
    a token attention and its random features stay in high precision. They are the nodes that a token attention makes
    itself; the Linear layers inside it are modules of their own and are quantized.
    """
    return [_decide(layer) for layer in layers if layer.operator in WEIGHT_OPERATORS]


def _decide(layer: Layer) -> Decision:
    if not layer.weight_shape:
        return Decision(layer, False, "no constant operand")
    if layer.classes and layer.classes[-1] in TOKEN_ATTENTIONS:
        return Decision(layer, False, "feeds or belongs to the token attention's kernel")
    if layer.operator != "Conv" and layer.narrow:
        return Decision(layer, False, f"narrower than {MIN_CHANNELS} channels")
    if layer.one_row:
        return Decision(layer, False, "one row per image: a matrix-vector product gains nothing")
    return Decision(layer, True, "weight layer")


def performer_kernel(layers: list[Layer]) -> list[Layer]:
    """The nodes a `TokenPerformer` makes itself (soft-split moments and the kernel): pinned to FP32 in FP16 graphs."""
    return [layer for layer in layers if layer.classes and layer.classes[-1] == "TokenPerformer"]
