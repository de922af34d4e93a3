"""The CPU as the operating system tells it, and what of it decides how INT8 and BF16 are computed."""

import platform
from pathlib import Path

_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")  # x86 and Arm dot products of bytes


def int8_instructions() -> list[str]:
    """Byte dot-product instructions of this CPU; without any, INT8 gains little over FP32 on it."""
    facts = cpu_facts()
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    return [flag for flag in _INT8_FLAGS if flag in flags]


def bf16_instructions() -> list[str]:
    """BF16 dot-product instructions of this CPU; without any, BF16 has to be emulated, which is slower than FP32."""
    flags = cpu_facts().get("flags", "").split()
    return [flag for flag in _BF16_FLAGS if flag in flags]


def adds_pairs_in_16_bits() -> bool:
    """True on x86 without byte dot products: VPMADDUBSW adds two products of bytes with saturation at 2^15 - 1.

    Where there is no /proc/cpuinfo an x86 CPU is taken to have none.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not int8_instructions()


def cpu_facts() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; none where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text(encoding="utf-8").split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
