"""What a machine is called in results, on the page and in the names of kept files."""

import pytest

from pipeline.machine import describe


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("Intel(R) Xeon(R) Processor", "Intel Xeon"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "Intel Core i7-9750H CPU @ 2.60GHz"),
        ("AMD EPYC", "AMD EPYC"),
        ("AMD Ryzen 9 5950X 16-Core Processor", "AMD Ryzen 9 5950X 16-Core"),
    ],
)
def test_a_cpu_is_named_without_marks(monkeypatch: pytest.MonkeyPatch, told: str, name: str) -> None:
    monkeypatch.setattr(describe, "cpu_facts", lambda: {"model name": told})
    monkeypatch.setattr(describe, "int8_instructions", lambda: ["avx512_vnni"])
    monkeypatch.setattr(describe.os, "cpu_count", lambda: 2)
    assert describe.cpu_name() == f"{name}, 2 cores, INT8 instructions: avx512_vnni"
