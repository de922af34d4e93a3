"""Versions that are known to fail or to give wrong results, why, and what to do: docs/jetson.md has the sources."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What goes wrong, and the fix."""

    what: str
    fix: str


def known_problem(name: str, version: str, others: dict[str, str | None]) -> Problem | None:
    """The known problem of this version of a package or backend, None without one; `others` are the other packages' versions."""
    number = release(version)
    if name == "tensorrt" and number < (10, 3):
        return Problem("too old: 10.3 is the first that builds strongly typed networks as we write them", _TENSORRT_FIX)
    if name == "tensorrt" and number[:2] in ((10, 3), (10, 4)):
        return Problem("10.3 and 10.4 have reports of wrong results for ViTs: use no engine that has not passed the gate "
                       "on this machine", _TENSORRT_FIX)  # fmt: skip
    if name == "onnxruntime" and number < (1, 31):
        return Problem("before 1.31 QuantizeLinear truncates in FP16, so int8-fp16 graphs lose more accuracy than they should",
                       "pip install -U 'onnxruntime>=1.31' (needs Python 3.11)")  # fmt: skip
    if name == "torch" and "+cpu" in version and "+" not in (others.get("torchvision") or "+"):
        return Problem("a CPU-only torch beside PyPI's torchvision: torchvision and timm do not import",
                       "pip install -c constraints.txt torch torchvision")  # fmt: skip
    return None


_TENSORRT_FIX = (
    "on a Jetson: a newer JetPack, or rely on the gate; elsewhere: pip install -U 'tensorrt>=10.5', then build again"
)


def release(version: str) -> tuple[int, ...]:
    """`10.3.0.26` as (10, 3, 0, 26); a suffix such as `+cpu` is dropped."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
