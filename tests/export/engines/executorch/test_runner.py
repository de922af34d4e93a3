"""The runner of a program in a process of its own: what it computes, and what the caller hears when something is wrong."""

import os
import signal
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from small_graph import write_graph

from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.engines.executorch import backend
from export.onnx_export import INPUT, OUTPUT
from export.runner import TensorInfo, Unavailable

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def graph(spec: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mean of a product over 16 patches."""
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    weight = np.random.default_rng(0).normal(0, 0.01, (192, 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["patches", "weight"], ["votes"], name="votes"),
        helper.make_node("ReduceMean", ["votes", "axes"], [OUTPUT], name="mean", keepdims=0),
    ]
    write_graph(path, nodes, {"weight": weight}, spec)
    return path


@pytest.fixture(scope="module")
def engine(graph: Path) -> Path:
    built = backend.build(graph, graph.parent / backend.ENGINE_NAME)
    assert built.layers == {"int8": 0, "fp16": 0, "fp32": 1}, "the mean is a product with ones, and no layer"
    return built.path


def test_it_computes_any_number_of_images_from_any_folder(
    graph: Path, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with onnxruntime_backend.load(graph, 1) as runner:
        expected = runner.infer({INPUT: IMAGES})[OUTPUT]
    with backend.load(Path(os.path.relpath(engine)), 2) as runner:
        assert runner.inputs == (TensorInfo(INPUT, (1, 32, 32, 3), "uint8"),)
        assert runner.outputs == (TensorInfo(OUTPUT, (1, 3), "float32"),)
        first = runner.infer({INPUT: IMAGES[:1]})[OUTPUT]
        found = runner.infer({INPUT: IMAGES})[OUTPUT]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(first, found[:1], "outputs belong to the caller: later calls leave them alone")
        assert 0 < (runner.memory_bytes or 0) < 200e6
        with pytest.raises(ValueError, match="uint8"):
            runner.infer({INPUT: IMAGES.astype(np.float32)})
        with pytest.raises(ValueError, match="shape"):
            runner.infer({INPUT: IMAGES[:1, :16]})
        assert runner.infer({INPUT: IMAGES[:1]})[OUTPUT].shape == (1, 3), "it is none the worse for it"


def test_its_process_ends_with_it(engine: Path) -> None:
    with backend.load(engine, 1) as runner:
        process = runner._process.pid
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_it_lives_on_when_its_process_is_killed(engine: Path) -> None:
    with backend.load(engine, 1) as runner:
        os.kill(runner._process.pid, signal.SIGINT)  # ctrl-C is for the caller
        runner.infer({INPUT: IMAGES[:1]})
        os.kill(runner._process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"ExecuTorch's process was ended by SIGKILL$"):
                runner.infer({INPUT: IMAGES[:1]})
    with backend.load(engine, 1) as runner:
        assert runner.infer({INPUT: IMAGES})[OUTPUT].shape == (5, 3)


@pytest.mark.parametrize("kept", [0, 20, 0.5, 0.99])
def test_a_program_that_is_cut_off_is_an_error(engine: Path, tmp_path: Path, kept: float) -> None:
    path, content = tmp_path / backend.ENGINE_NAME, engine.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(RuntimeError, match="ExecuTorch"):
        backend.load(path, 1)


def test_a_file_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    """ExecuTorch 1.3.1 aborts its process, which is why it has one of its own."""
    path = tmp_path / backend.ENGINE_NAME
    path.write_bytes(np.random.default_rng(0).bytes(10_000))
    with pytest.raises(RuntimeError, match="ExecuTorch"):
        backend.load(path, 1)
    with pytest.raises(RuntimeError, match="ExecuTorch"):
        backend.load(tmp_path / "nothing.pte", 1)


VERSIONS = {"executorch": "1.3.1", "torch": "2.12.1+cpu", "torchao": "0.17.0"}


@pytest.mark.parametrize(
    ("changed", "build", "run"),
    [
        ({}, None, None),
        ({"executorch": None}, "not installed", "not installed"),
        ({"executorch": "1.5.1"}, "1.5.1 does not fit PyTorch 2.12.1", "does not fit"),
        ({"torch": "2.13.0"}, "1.3.1 does not fit PyTorch 2.13.0", "does not fit"),
        ({"torch": None}, "does not fit", "does not fit"),
        ({"torchao": None}, "torchao is not installed", None),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said_with_the_fix(
    changed: dict[str, str | None], build: str | None, run: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def version(package: str) -> str:
        found = (VERSIONS | changed)[package]
        if found is None:
            raise metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(metadata, "version", version)
    for check, reason in ((backend.check_available_to_build, build), (backend.check_available_to_run, run)):
        if reason is None:
            check()
        else:
            with pytest.raises(Unavailable, match=rf"{reason}.*pip install -e '\.\[phones\]'"):
                check()
    if run is not None:
        with pytest.raises(Unavailable):
            backend.load(tmp_path / "any.pte", 1)


def test_an_operator_that_xnnpack_does_not_take_raises_the_alarm(spec: Preprocess, tmp_path: Path) -> None:
    """And one that takes no time does not: in front of the product, or behind it."""
    weight = np.random.default_rng(0).normal(0, 0.01, (192, 3)).astype(np.float32)
    for place in (0, 1):
        nodes = [
            helper.make_node("MatMul", ["soft" if place == 0 else "patches", "weight"], ["votes"], name="votes"),
            helper.make_node("ReduceMean", ["votes", "axes"], ["mean" if place else OUTPUT], name="mean", keepdims=0),
        ]
        source, made = (("patches", "soft"), ("mean", OUTPUT))[place]
        nodes.insert(2 * place, helper.make_node("Erf", [source], [made], name="erf"))
        write_graph(tmp_path / "graph.onnx", nodes, {"weight": weight}, spec)
        notes = backend.build(tmp_path / "graph.onnx", tmp_path / backend.ENGINE_NAME).notes
        assert notes["portable"] == {"cast": 1, "erf": 1}
        assert ("alarm" in notes) == (place == 0)
        assert place == 1 or "XNNPACK does not take erf" in notes["alarm"]
