"""What a CPU's flags say of its INT8 and BF16 products."""

import os
import platform
from pathlib import Path

import pytest

from export import cpu
from export.engines import onnxruntime_backend


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


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"flags": "avx512f avx512_fp16"}, ["avx512_fp16"]),
        ({"Features": "fp asimd fphp asimdhp"}, ["asimdhp"]),
        ({"flags": "avx512f avx512_bf16"}, []),
        ({}, []),
    ],
)
def test_fp16_needs_instructions_of_its_own(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], found: list[str]
) -> None:
    monkeypatch.setattr(cpu, "cpu_facts", lambda: facts)
    assert cpu.fp16_instructions() == found


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"flags": "vmx fma avx512f hypervisor avx2 sse4_2 lm"}, "avx2 avx512f fma sse4_2"),
        ({"Features": "fp asimd sve i8mm"}, "asimd fp i8mm sve"),
        ({}, "riscv64"),
    ],
)
def test_code_compiled_for_this_cpu_uses_its_instructions(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], found: str
) -> None:
    """Not what a kernel or a hypervisor changes between two starts of one machine."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(cpu, "cpu_facts", lambda: facts)
    assert cpu.compiled_instructions() == found


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="CPUs of a process are Linux's")
def test_a_process_that_may_use_one_cpu_computes_on_one(small_onnx: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpu.available_cpus() == 1
        with onnxruntime_backend.load(small_onnx / "fp32.onnx", 0) as runner:
            assert runner._session.get_session_options().intra_op_num_threads == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cpu.available_cpus() == len(before)
