"""Where the operators of a lowered program run: what XNNPACK took, what is left to portable kernels, and what that costs."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from export.engines.executorch.forms import OURS

_PRODUCTS = ("convolution", "linear", "addmm", "mm", "bmm", "matmul")
_SAID = {"_to_dim_order_copy": "cast"}  # of the image, which XNNPACK does not take as bytes
_NO_KERNELS = ("executorch_call_delegate", "getitem", "alloc", "free")
# Nanoseconds that portable kernels take for a number that they read or write, measured on one core with AVX512; the others that
# were measured take 5 to 16. XNNPACK's products take one for so many multiplications.
_WINDOWS, _SLOW, _FAST = 100.0, 10.0, 1.0
_KINDS = {
    "avg_pool2d": _WINDOWS, "max_pool2d_with_indices": _WINDOWS, "convolution": _WINDOWS, "im2col": _WINDOWS,
    **dict.fromkeys(
        ("native_layer_norm", "native_group_norm", "cast", "add", "sub", "mul", "div", "sum", "mean",
         "permute_copy", "slice_copy", "select_copy", "view_copy", "cat", "expand_copy", "index_select", "split_with_sizes_copy",
         "unsqueeze_copy", "squeeze_copy", "amax", "clone"), _FAST,
    ),
}  # fmt: skip
_MULTIPLICATIONS = 30.0
_ALARM, _LEAST = 0.1, 3e4  # of the estimated time, and nanoseconds: what takes less is nothing to look into


@dataclass(frozen=True)
class Placed:
    """The products that XNNPACK took, by what they compute in; `portable` operators by name, `parts` that XNNPACK computes.

    `share` is the part of the time that portable kernels are estimated to take, `heavy` the operators that take most of it,
    where that is much; products among them always are.
    """

    layers: dict[str, int]
    parts: int
    portable: dict[str, int]
    share: float
    heavy: tuple[str, ...]

    def notes(self) -> dict[str, Any]:
        """For `export.runner.Engine`: `portable` as here, and a text as `alarm` where portable kernels cost the speed."""
        if not self.heavy:
            return {"portable": self.portable}
        alarm = (
            f"portable kernels are estimated to take {100 * self.share:.0f} % of its time: XNNPACK does not take "
            f"{', '.join(self.heavy)}"
        )
        return {"portable": self.portable, "alarm": alarm}


def read_placed(program: torch.export.ExportedProgram) -> Placed:
    """Of a program whose parts are lowered to XNNPACK."""
    layers, multiplications, parts = Counter(int8=0, fp16=0, fp32=0), 0.0, 0
    for part in _parts(program):
        parts += 1
        for node in _calls(part.graph):
            if _name(node) in _PRODUCTS and not _is_ours(node):
                layers["int8" if _is_quantized(node) else "fp32"] += 1
                multiplications += _multiplications(node)
    portable: Counter[str] = Counter()
    nanoseconds: dict[str, float] = {}
    for node in _calls(program.graph):
        name = _name(node)
        if name in _NO_KERNELS:
            continue
        portable[name] += 1
        nanoseconds[name] = nanoseconds.get(name, 0.0) + _numbers(node) * _KINDS.get(name, _SLOW)
        layers["fp32"] += name in _PRODUCTS
    whole = sum(nanoseconds.values())
    share = whole / (whole + multiplications / _MULTIPLICATIONS) if whole > _LEAST else 0.0
    heavy = [name for name, spent in nanoseconds.items()
             if name in _PRODUCTS or (share > _ALARM and spent > whole * _ALARM)]  # fmt: skip
    return Placed(dict(layers), parts, dict(portable.most_common()), share, tuple(heavy))


def _parts(program: torch.export.ExportedProgram) -> Iterator[torch.export.ExportedProgram]:
    """What XNNPACK computes, as it was before it was lowered."""
    for name, module in program.graph_module.named_children():
        if name.startswith("lowered_module"):
            yield module.original_module


def _calls(graph: fx.Graph) -> Iterator[fx.Node]:
    return (node for node in graph.nodes if node.op == "call_function")


def _name(node: fx.Node) -> str:
    """`convolution` of `aten.convolution.default`, or what it does."""
    name = str(getattr(node.target, "__name__", node.target))
    words = name.split(".")
    found = words[1] if len(words) > 1 else name
    return _SAID.get(found, found)


def _is_ours(node: fx.Node) -> bool:
    """A product with ones, in place of a sum."""
    return any(OURS in source.name for source in node.all_input_nodes)


def _is_quantized(node: fx.Node) -> bool:
    sources = node.all_input_nodes[:2]
    return len(sources) == 2 and all(of.op == "call_function" and "dequantize" in _name(of) for of in sources)


def _multiplications(node: fx.Node) -> float:
    """Of a product: the numbers that it makes times those that each is made of."""
    weight = node.all_input_nodes[2 if _name(node) == "addmm" else 1].meta["val"].shape
    made = math.prod(node.meta["val"].shape)
    if _name(node) == "convolution":
        return float(made * math.prod(weight[1:]))
    return float(made * weight[-1 if _name(node) == "linear" else -2])


def _numbers(node: fx.Node) -> int:
    values = [source.meta.get("val") for source in node.all_input_nodes] + [node.meta.get("val")]
    flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
    return sum(item.numel() for item in flat if isinstance(item, torch.Tensor))
