"""The CPU as the operating system tells it, and what of it decides how INT8 and BF16 are computed."""

import os
import platform
from pathlib import Path

_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_FP16_FLAGS = ("avx512_fp16", "amx_fp16", "asimdhp")
_INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")  # x86 and Arm dot products of bytes
# What a compiler uses of x86 where it compiles for the CPU it runs on, by the beginning of its name.
_COMPILED = ("sse", "ssse", "avx", "amx", "fma", "f16c", "bmi", "abm", "movbe", "popcnt", "aes", "vaes", "pclmul", "vpclmul",
             "sha", "gfni", "adx", "cx16")  # fmt: skip


def available_cpus() -> int:
    """How many CPUs this process may use: fewer than the machine has under taskset or in a CPU set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def int8_instructions() -> list[str]:
    """Byte dot-product instructions of this CPU; without any, INT8 gains little over FP32 on it."""
    facts = cpu_facts()
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    return [flag for flag in _INT8_FLAGS if flag in flags]


def bf16_instructions() -> list[str]:
    """BF16 dot-product instructions of this CPU; without any, BF16 has to be emulated, which is slower than FP32."""
    flags = cpu_facts().get("flags", "").split()
    return [flag for flag in _BF16_FLAGS if flag in flags]


def fp16_instructions() -> list[str]:
    """FP16 instructions of this CPU, x86's and Arm's; without any, FP16 is computed in FP32 between casts."""
    facts = cpu_facts()
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    return [flag for flag in _FP16_FLAGS if flag in flags]


def compiled_instructions() -> str:
    """Names of what code compiled for this very CPU may use, sorted, with spaces between; where they are not told, the machine's.

    Code for one set of them does not run on a CPU with another: it would end the process, or weights would be packed otherwise.
    """
    facts = cpu_facts()
    found = [flag for flag in facts.get("flags", "").split() if flag.startswith(_COMPILED)]
    return " ".join(sorted({*found, *facts.get("Features", "").split()})) or platform.machine()


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
