"""What a forward pass has to compute and to move at least, and how long a GPU needs for that.

Counted are matrix products, convolutions and attentions: the operations of each, and the bytes of its operands and its
result, in the types in which they are. What lies between can be fused into them; where it is not, it shows as a smaller share.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

Work = list[tuple[int, int, int, str]]  # how many times, operations, bytes, type
# Dense, 10¹² operations/s and 10¹² bytes/s, from NVIDIA's datasheets; FP16 and BF16 summed in FP32.
DATASHEETS: dict[str, dict[str, float | None]] = {
    r"H200$": {"float32": 67, "tf32": 494.7, "half": 989.4, "int8": 1979, "bytes": 4.8},
    r"H100.*PCIe": {"float32": 51, "tf32": 378, "half": 756, "int8": 1513, "bytes": 2.0},
    r"H100.*(SXM|HBM3)": {"float32": 67, "tf32": 494.7, "half": 989.4, "int8": 1979, "bytes": 3.35},
    r"A100.*80GB.*PCIe|A100 80GB PCIe": {"float32": 19.5, "tf32": 156, "half": 312, "int8": 624, "bytes": 1.935},
    r"A100.*80GB": {"float32": 19.5, "tf32": 156, "half": 312, "int8": 624, "bytes": 2.039},
    r"A100.*40GB": {"float32": 19.5, "tf32": 156, "half": 312, "int8": 624, "bytes": 1.555},
    r"A10\b": {"float32": 31.2, "tf32": 62.5, "half": 125, "int8": 250, "bytes": 0.6},
    r"L40S": {"float32": 91.6, "tf32": 183, "half": 362, "int8": 733, "bytes": 0.864},
    r"L4\b": {"float32": 30.3, "tf32": 60, "half": 121, "int8": 242, "bytes": 0.3},
    r"T4\b": {"float32": 8.1, "tf32": None, "half": 65, "int8": 130, "bytes": 0.32},
    r"V100.*SXM2": {"float32": 15.7, "tf32": None, "half": 125, "int8": None, "bytes": 0.9},
    r"RTX 3090$": {"float32": 35.6, "tf32": 35.6, "half": 71, "int8": 284, "bytes": 0.936},
    r"RTX 4090$": {"float32": 82.6, "tf32": 82.6, "half": 165.2, "int8": 660.6, "bytes": 1.008},
}
TYPES = {torch.float32: "float32", torch.float16: "half", torch.bfloat16: "half", torch.int8: "int8"}


def datasheet(name: str) -> Mapping[str, float | None] | None:
    """Of a GPU as CUDA names it; None for one that is not in the table."""
    return next((row for pattern, row in DATASHEETS.items() if re.search(pattern, name)), None)


class WorkCounter(TorchDispatchMode):
    """Counts what the operators called under it compute and move."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[int, int, str]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        operations = _operations(func._overloadpacket)
        if operations is not None:
            tensors = [leaf for leaf in tree_leaves((args, given, out)) if isinstance(leaf, Tensor)]
            moved = sum(_bytes(tensor) for tensor in tensors)
            self.found[int(operations(*args, **given, out_val=out)), moved, TYPES[tensors[0].dtype]] += 1
        return out


def _bytes(tensor: Tensor) -> int:
    """In memory: what is expanded lies there once."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sides if stride or not size)


def _operations(packet: Any) -> Callable[..., int] | None:
    """How many operations a call of an operator is; None for those that only move values."""
    if packet is torch.ops.aten._int_mm:
        return lambda a, b, out_val: 2 * a.shape[0] * a.shape[1] * b.shape[1]
    if "_scaled_dot_product" in str(packet) and packet not in flop_registry:  # such as the CPU's
        return lambda q, k, v, *_, out_val, **__: sdpa_flop_count(q.shape, k.shape, v.shape)
    return flop_registry.get(packet)


def count_work(network: nn.Module, images: Tensor) -> Work:
    """Of one batch; the network is run as it is, not compiled."""
    with torch.no_grad(), WorkCounter() as counter:  # under inference_mode, operators would not come taken apart
        network(images)
    return [(times, *entry) for entry, times in sorted(counter.found.items(), reverse=True)]


def least_seconds(work: Sequence[Sequence[Any]], peak: Mapping[str, float | None] | None, tf32: bool) -> float | None:
    """How long `work` takes where each operator is as fast as its operations or its bytes allow.

    None where the peak of one of its types is not known.
    """
    if peak is None or peak["bytes"] is None:
        return None
    total = 0.0
    for times, operations, moved, kind in work:
        rate = peak["tf32" if tf32 and kind == "float32" else kind]
        if rate is None:
            return None
        total += times * max(operations / (rate * 1e12), moved / (peak["bytes"] * 1e12))
    return total
