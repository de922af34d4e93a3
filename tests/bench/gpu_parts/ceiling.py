"""What this device reaches in the types that the networks use: a large matrix product, and a copy."""

from typing import Any

import torch
from bench.gpu_parts.clock import Turn, take_turns
from bench.gpu_parts.failures import failure
from bench.gpu_parts.parts import Scale

MIB = 2**20


def measure_ceiling(scale: Scale, device: torch.device) -> dict[str, Any]:
    """10¹² operations/s by type, 10¹² bytes/s of a copy (read and written); None, with the reason, where there is none."""
    side, size = scale.products, scale.copied_mib * MIB
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    work = {"float32": 2 * side**3, "tf32": 2 * side**3, "half": 2 * side**3, "int8": 2 * side**3, "bytes": 2 * size}
    found: dict[str, float | None] = dict.fromkeys(work)
    reasons: dict[str, str] = {}
    for name in work:
        try:
            turn = _copy(source, target) if name == "bytes" else _product(name, side, device)
            seconds = take_turns({name: turn}, scale.rounds, scale.turn_seconds, device)[name]
            found[name] = float(f"{work[name] / sorted(seconds)[len(seconds) // 2] / 1e12:.4g}")
        except Exception as error:  # kept as the reason of a ceiling that is missing
            reasons[name] = failure(error, device)
    return {"peak": found, "reasons": reasons, "side": side, "copied_mib": scale.copied_mib}


def _copy(source: torch.Tensor, target: torch.Tensor) -> Turn:
    return Turn(lambda: target.copy_(source), False)


def _product(kind: str, side: int, device: torch.device) -> Turn:
    """Random numbers: zeros are faster, because they take less power."""
    if kind == "int8":
        a, b = (torch.randint(-127, 128, (side, side), dtype=torch.int8, device=device) for _ in range(2))
        return Turn(lambda: torch._int_mm(a, b.t()), False)
    dtype = torch.float16 if kind == "half" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return Turn(lambda: torch.mm(a, b.t()), kind == "tf32")
