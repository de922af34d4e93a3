"""What precision a TensorRT engine really computes in, read from the builder's own layer report.

At VERBOSE severity, with detailed profiling verbosity, the builder logs one message that starts with `Layers:` and has
a line per engine layer: its type, the datatype of every input, constant and output, and the ONNX nodes it came from.
Only matrix products (Conv, MatMul, Gemm) are counted, one per product of the network, so that the numbers mean the
same as other backends' numbers and do not depend on how many small kernels an engine needs in between.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

# Narrowest first. Every datatype word a report may use stands here, so that a new one makes a report unreadable.
_PRECISION_WORDS = {
    "int8": ("int8",), "fp8": ("fp8",), "int4": ("int4",), "fp4": ("fp4",), "fp16": ("half", "fp16"),
    "bf16": ("bf16", "bfloat16"), "fp32": ("float", "fp32"), "": ("int32", "int64", "uint8", "bool", "e8m0"),
}  # fmt: skip
_PRECISION_OF_WORD = {word: precision for precision, words in _PRECISION_WORDS.items() for word in words}
_ALWAYS_COUNTED = ("int8", "fp16", "fp32")
_QUANTIZED = ("int8", "fp8")
_GENERATED = "kgen"  # a kernel that the builder wrote for this network

_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), Inputs: \[(?P<inputs>.*?)\]"
    r"(?:, Constants: \[(?P<constants>.*?)\])?, Outputs: \[(?P<outputs>\]|.*?\}\])(?P<rest>.*)"
)
_TENSOR = re.compile(r"\{ Name: .*?, (?:Location: \w+, )?Dimensions: \[([-\d,]*)\],[^{}]*?Datatype: ([^,}]+)")
_TENSOR_NAME = re.compile(r"\{ Name: (.*?), (?:Location: \w+, )?Dimensions: ")
_WEIGHTS = re.compile(r'Weights: \{"Type": "(\w+)"')
# Several nodes are kept apart by a control character, which one depends on the release; what the builder made of a node
# may follow it, as in `[ONNX Layer: node_00038]__gemm_from_conv1x1`.
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=(?:__\w+)?(?:[\x1e\x1f\[]|\s*$))")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine: `operands` are the precisions of its inputs, constants and weights (not of scalars).

    `inputs` are those of its inputs alone, "" for integers; a layer that has none works on constants or only waits.
    `reads_fp32` and `writes` are names of tensors, scalars among what is written.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    operands: tuple[str, ...]
    nodes: frozenset[str]
    reads_fp32: frozenset[str]
    writes: frozenset[str]

    @property
    def hands_over_sums(self) -> bool:
        """Whether it is a kernel of the builder's library that multiplies INT8 or FP8, and may write its sums in FP32."""
        return self.kind != _GENERATED and any(self.operands.count(kind) >= 2 for kind in _QUANTIZED)

    @property
    def attention(self) -> bool:
        """Whether it is a whole attention in one kernel: `_gemm_mha_v2` in TensorRT-RTX 1.7.1."""
        return "_mha" in self.name


def parse_layers(report: str) -> list[EngineLayer] | None:
    """The layers of a `Layers:` message; None where any of its lines is not understood."""
    # Not splitlines(), which also splits at the control characters between node names.
    lines = [line for line in report.split("\n") if line.startswith("Name: ")]
    layers = [_parse_line(line) for line in lines]
    known = [layer for layer in layers if layer is not None]
    return known if known and len(known) == len(layers) else None


def _parse_line(line: str) -> EngineLayer | None:
    match = _LAYER.fullmatch(line)
    if match is None:
        return None
    inputs, constants = _tensors(match["inputs"]), _tensors(match["constants"] or "")
    words = _WEIGHTS.findall(match["rest"])
    weights = tuple(_precision(word) for word in words)
    if inputs is None or constants is None or None in weights:
        return None
    operands = tuple(name for name in (*inputs, *constants, *weights) if name)
    read = _TENSOR_NAME.findall(match["inputs"])
    wide = (name for name, (sizes, word) in zip(read, _TENSOR.findall(match["inputs"]), strict=True)
            if not _is_scalar(sizes) and _precision(word) == "fp32")  # fmt: skip
    return EngineLayer(
        match["name"], match["kind"], inputs, operands, frozenset(_NODE.findall(match["rest"])), frozenset(wide),
        frozenset(_TENSOR_NAME.findall(match["outputs"])),
    )  # fmt: skip


def _tensors(described: str) -> tuple[str, ...] | None:
    """The precision of every tensor but scalars; None where one is not understood."""
    found = _TENSOR.findall(described)
    precisions = [_precision(word) for sizes, word in found if not _is_scalar(sizes)]
    if len(found) != described.count("{ Name: "):
        return None
    known = tuple(name for name in precisions if name is not None)
    return known if len(known) == len(precisions) else None


def _is_scalar(sizes: str) -> bool:
    return all(size in ("", "1") for size in sizes.split(","))


def _precision(described: str) -> str | None:
    """`Half`, `Float` or, in older releases, `Thirty-two wide channel vectorized row major Int8 format`."""
    found = [_PRECISION_OF_WORD[word] for word in re.findall(r"\w+", described.lower()) if word in _PRECISION_OF_WORD]
    return found[0] if len(found) == 1 else None


# What an engine does between kernels: streams wait for each other, the CPU computes shapes of the current batch.
_NO_KERNELS = ("signal", "wait", "shape_call")
_SHAPES_OR_KERNELS = ("reshape", "cast")


@dataclass(frozen=True)
class EngineGraph:
    """What a builder made of a network.

    `entries` are the lines of its report, `kernels` those that run on the GPU; `attentions` counts the fused ones by the
    precision of Q, K and V. `fp32` has the ONNX nodes of each kernel that takes FP32 activations; the sums that an INT8 or
    FP8 product hands to the kernel behind it are none. `nodes` has those of every kernel, `generated` of the kernels that the
    builder wrote for this network.
    """

    entries: int
    kernels: int
    attentions: dict[str, int]
    fp32: tuple[tuple[str, ...], ...]
    nodes: tuple[tuple[str, ...], ...]
    generated: tuple[tuple[str, ...], ...]


def describe_graph(reports: list[str]) -> EngineGraph | None:
    """The graph of a `Layers:` message; None where there is none, or more than one, or it is not understood."""
    layers = parse_layers(reports[0]) if len(reports) == 1 else None
    if layers is None:
        return None
    attentions = Counter(layer.inputs[0] for layer in layers if layer.attention and layer.inputs)
    sums = {name for layer in layers if layer.hands_over_sums for name in layer.writes}
    fp32 = tuple(tuple(sorted(layer.nodes)) for layer in layers if layer.reads_fp32 - sums)
    kernels = [layer for layer in layers if _is_kernel(layer)]
    nodes = tuple(tuple(sorted(layer.nodes)) for layer in kernels)
    generated = tuple(tuple(sorted(layer.nodes)) for layer in kernels if layer.kind == _GENERATED)
    return EngineGraph(len(layers), len(kernels), dict(attentions), fp32, nodes, generated)


def _is_kernel(layer: EngineLayer) -> bool:
    return layer.kind not in _NO_KERNELS and not (layer.kind in _SHAPES_OR_KERNELS and not layer.inputs)


def product_nodes(trt: Any, network: Any) -> list[str]:
    """The ONNX node name of every matrix product in a parsed network, in order; empty text where it has none."""
    kinds = (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.EINSUM)
    names: list[str] = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in kinds:
            names.append(next(iter(_NODE.findall(layer.metadata)), ""))
    return names


def count_precisions(reports: list[str], products: list[str]) -> dict[str, int] | None:
    """Matrix products by the precision they run in: `int8`, `fp16`, `fp32`, and others where there are any.

    None where the builder gave no report, or more than one, or a product cannot be found in it: never a guess.
    """
    layers = parse_layers(reports[0]) if len(reports) == 1 else None
    if layers is None:
        return None
    counts = dict.fromkeys(_ALWAYS_COUNTED, 0)
    for name in products:
        precision = _product_precision([layer for layer in layers if name in layer.nodes])
        if precision is None:
            return None
        counts[precision] = counts.get(precision, 0) + 1
    return counts


def _product_precision(layers: list[EngineLayer]) -> str | None:
    """The precision that two operands of one kernel share, narrowest first.

    The scales of an INT8 kernel and a residual that is added to its result are of another precision, and so are the
    casts around it: those are generated kernels (`kgen`), and so is fused attention, hence they come second. A layer
    without inputs only prepares weights: TensorRT-RTX 1.7.1 dequantizes stored ones in a kernel of their product's name.
    """
    layers = [layer for layer in layers if layer.inputs]
    for generated in (False, True):
        kernels = [layer for layer in layers if (layer.kind == _GENERATED) == generated]
        for precision in filter(None, _PRECISION_WORDS):
            if any(kernel.operands.count(precision) >= 2 for kernel in kernels):
                return precision
    return _wider_of_two(layers)


def _wider_of_two(layers: list[EngineLayer]) -> str | None:
    """The wider of a product's two operands where one kernel takes both as they are: it widens the narrower one itself.

    So it is where a dequantization is fused into a product with floating-point values.
    """
    order = [precision for precision in _PRECISION_WORDS if precision]
    pairs = {kernel.operands for kernel in layers if len(kernel.operands) == 2}
    return max(pairs.pop(), key=order.index) if len(pairs) == 1 else None
