"""What a CPU's flags say of its INT8 and BF16 products."""

import platform

import pytest

from export import cpu


@pytest.mark.parametrize(
    ("machine", "facts", "found", "saturates"),
    [
        ("x86_64", {"flags": "fma avx2"}, [], True),
        ("x86_64", {"flags": "avx512f avx512bw"}, [], True),
        ("x86_64", {"flags": "avx512f avx512_vnni amx_int8"}, ["avx512_vnni", "amx_int8"], False),
        ("x86_64", {"flags": "avx2 avx_vnni"}, ["avx_vnni"], False),
        ("AMD64", {}, [], True),  # no /proc/cpuinfo: taken to have none
        ("aarch64", {"Features": "fp asimd asimddp"}, ["asimddp"], False),
        ("aarch64", {"Features": "fp asimd"}, [], False),
    ],
)
def test_pairs_are_added_in_16_bits_on_x86_without_byte_dot_products(
    monkeypatch: pytest.MonkeyPatch, machine: str, facts: dict[str, str], found: list[str], saturates: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu, "cpu_facts", lambda: facts)
    assert cpu.int8_instructions() == found and cpu.adds_pairs_in_16_bits() is saturates


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("avx512f avx512_vnni", []),
        ("avx512f avx512_bf16", ["avx512_bf16"]),
        ("avx512_bf16 amx_bf16 amx_int8 amx_tile", ["avx512_bf16", "amx_bf16"]),
    ],
)
def test_bf16_needs_instructions_of_its_own(monkeypatch: pytest.MonkeyPatch, flags: str, found: list[str]) -> None:
    monkeypatch.setattr(cpu, "cpu_facts", lambda: {"flags": flags})
    assert cpu.bf16_instructions() == found
    monkeypatch.setattr(cpu, "cpu_facts", dict)
    assert cpu.bf16_instructions() == [], "no /proc/cpuinfo"
