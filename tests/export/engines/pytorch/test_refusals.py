"""A package is code: it is read only with a sidecar that says that this PyTorch compiled it, for this machine, of this graph."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.engines import engine as engines
from export.engines.engine import build_engine, load_engine
from export.engines.pytorch import inductor_backend
from export.engines.sidecar import SIDECAR, Expected, read_sidecar
from export.engines.spec import EngineSpec
from export.runner import Engine, Unavailable

HERE = "avx2 avx512f fma"
Edit = Callable[[Path], object]


@pytest.fixture
def package(tmp_path: Path, spec: Preprocess, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine's folder as `build_engine` leaves it, of a CPU; what would read the package fails the test."""

    def build(onnx_path: Path, engine_path: Path, **_: Any) -> Engine:
        engine_path.write_bytes(b"PK" + bytes(range(256)))
        return Engine(engine_path, {"int8": 1, "fp16": 0, "fp32": 0})

    def load(path: Path, threads: int) -> None:
        pytest.fail(f"{path} was read")

    monkeypatch.setattr(inductor_backend, "build", build)
    monkeypatch.setattr(inductor_backend, "load", load)
    monkeypatch.setattr(inductor_backend, "version", lambda: "2.12.1+cu130")
    monkeypatch.setattr(engines, "gpu_capability", lambda: None)
    monkeypatch.setattr(engines, "compiled_instructions", lambda: HERE)
    (tmp_path / "graph.onnx").write_bytes(b"a graph")
    folder = tmp_path / "inductor-int8"
    build_engine(EngineSpec("inductor", "int8", None, (1, 1, 8)), tmp_path / "graph.onnx", folder, spec, ["a", "b"])
    return folder


def change(**values: Any) -> Edit:
    """An edit of the sidecar."""
    return lambda folder: (folder / SIDECAR).write_text(
        json.dumps(json.loads((folder / SIDECAR).read_text()) | values), encoding="utf-8"
    )


def tamper(folder: Path) -> None:
    path = folder / "engine.pt2"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


REFUSALS: list[tuple[Edit, str]] = [
    (lambda folder: (folder / SIDECAR).unlink(), "it has no sidecar"),
    (tamper, "a file was changed or cut off"),
    (lambda folder: (folder / "engine.pt2").unlink(), "a file is missing"),
    (change(version="2.12.1+cpu"), "it was compiled by PyTorch 2.12.1+cpu\n  got: 2.12.1+cu130 is installed"),
    (change(version="2.13.0+cu130"), "it was compiled by PyTorch 2.13.0+cu130"),
    (change(machine="Linux-aarch64"), "it was compiled on Linux-aarch64"),
    (
        change(instructions="amx_int8 avx2 avx512f fma"),
        "another CPU's instructions\n  got: this CPU is without amx_int8",
    ),
    (change(instructions="avx2 fma"), "another CPU's instructions\n  got: this CPU is with avx512f"),
    (change(instructions=None), "another CPU's instructions\n  got: this CPU is with avx2, with avx512f, with fma"),
    (change(instructions=["avx2"]), "its sidecar cannot be read\n  got: instructions: ['avx2']"),
    (change(compute_capability="9.0"), "for compute capability 9.0\n  got: PyTorch has no GPU here"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSALS, ids=lambda value: value if isinstance(value, str) else "")
def test_refused(package: Path, damage: Edit, message: str) -> None:
    damage(package)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_engine(package, 1)
    assert "t2t-edge build" in str(caught.value.next_step)


@pytest.mark.parametrize("here", ["8.0", None])
def test_one_of_another_gpu_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch, here: str | None) -> None:
    change(compute_capability="9.0", instructions=None)(package)
    monkeypatch.setattr(engines, "gpu_capability", lambda: here)
    with pytest.raises(InputError, match=r"(?s)compute capability 9\.0.*(this GPU has 8\.0|has no GPU here)"):
        load_engine(package, 1)


def test_one_of_another_graph_is_refused(package: Path) -> None:
    with pytest.raises(InputError, match="it was built from another graph"):
        load_engine(package, 1, expected=Expected(onnx_sha256="0" * 64))


def test_without_pytorch_it_is_unavailable(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor_backend, "version", lambda: None)
    with pytest.raises(Unavailable, match="inductor is not installed"):
        load_engine(package, 1)


def test_the_sidecar_says_what_it_was_compiled_for(package: Path) -> None:
    sidecar = read_sidecar(package)
    assert (sidecar.version, sidecar.instructions, sidecar.compute_capability) == ("2.12.1+cu130", HERE, None)
    assert sidecar.machine == engines.machine()


def test_of_a_gpu_it_says_that(
    tmp_path: Path, package: Path, spec: Preprocess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "gpu_capability", lambda: "9.0")
    engine = EngineSpec("inductor", "fp16", None, (1, 1, 8))
    sidecar = build_engine(engine, tmp_path / "graph.onnx", tmp_path / "gpu", spec, ["a"])
    assert (sidecar.compute_capability, sidecar.instructions) == ("9.0", None)
    with pytest.raises(pytest.fail.Exception, match="was read"):
        load_engine(tmp_path / "gpu", 1)
