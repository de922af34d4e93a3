"""Build options on their way through `export.engines.engine`: into the builder, the sidecar and the loader."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.engines import engine as engines
from export.engines.engine import build_engine, load_engine
from export.engines.sidecar import read_sidecar
from export.engines.spec import EngineSpec
from export.engines.tensorrt import backend as tensorrt_backend
from export.engines.tensorrt.options import BuildOptions
from export.runner import Engine, RunOptions

PREPROCESS = Preprocess(32, 32, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the TensorRT backend is called with, in place of building and loading."""
    told: dict[str, Any] = {"version": "10.3.0"}

    def build(onnx_path: Path, path: Path, **arguments: Any) -> Engine:
        path.write_bytes(b"plan")
        told["build"] = arguments
        return Engine(path)

    def load(path: Path, run: RunOptions | None, **arguments: Any) -> str:
        told["load"] = {"run": run, **arguments}
        return "runner"

    for name, function in {
        "build": build, "load": load, "version": lambda: told["version"], "check_available_to_run": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(tensorrt_backend, name, function)
    monkeypatch.setattr(engines, "compute_capability", lambda: "8.7")
    return told


def built(tmp_path: Path, options: BuildOptions, precision: str = "int8") -> Path:
    (tmp_path / "net.onnx").write_bytes(b"weights and all")
    folder = tmp_path / "engine"
    spec = EngineSpec("tensorrt", precision, None, (1, 1, 8), options)
    build_engine(spec, tmp_path / "net.onnx", folder, PREPROCESS, ["a"])
    return folder


@pytest.mark.parametrize(("precision", "sparse"), [("int8-sparse", True), ("int8-sparse-fp16", True), ("int8", False)])
def test_only_sparse_precisions_look_for_sparse_kernels(
    told: dict[str, Any], tmp_path: Path, precision: str, sparse: bool
) -> None:
    options = BuildOptions(optimization_level=5)
    folder = built(tmp_path, options, precision)
    assert told["build"]["options"] == BuildOptions(optimization_level=5, sparse_weights=sparse)
    assert read_sidecar(folder).options == asdict(told["build"]["options"])


def test_a_stripped_engine_keeps_its_onnx_under_the_same_hashes(told: dict[str, Any], tmp_path: Path) -> None:
    folder = built(tmp_path, BuildOptions(strip_weights=True))
    assert set(read_sidecar(folder).files) == {"engine.plan", engines.WEIGHTS}
    load_engine(folder, 1, RunOptions(spin=True))
    assert told["load"] == {"run": RunOptions(spin=True), "weights": folder / engines.WEIGHTS, "host_code": False}
    (folder / engines.WEIGHTS).unlink()
    (folder / engines.WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(InputError, match="a file was changed or cut off"):
        load_engine(folder, 1)


def test_weights_are_copied_where_they_cannot_be_linked(
    told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(engines.os, "link", refuse)
    folder = built(tmp_path, BuildOptions(strip_weights=True))
    assert (folder / engines.WEIGHTS).read_bytes() == b"weights and all"


@pytest.mark.parametrize(
    ("compatible", "installed", "loads"),
    [
        (False, "10.3.0", True), (False, "10.4.0", False), (True, "10.3.0", True), (True, "10.16.1", True),
        (True, "10.2.0", False), (True, "11.4.0", False),
    ],
)  # fmt: skip
def test_a_version_compatible_engine_loads_in_later_releases_of_its_major_version(
    told: dict[str, Any], tmp_path: Path, compatible: bool, installed: str, loads: bool
) -> None:
    folder = built(tmp_path, BuildOptions(version_compatible=compatible))
    told["version"] = installed
    if loads:
        load_engine(folder, 1)
        assert told["load"]["host_code"] is compatible and told["load"]["weights"] is None
    else:
        with pytest.raises(InputError, match=r"(?s)was built by tensorrt 10\.3\.0"):
            load_engine(folder, 1)
