"""An engine that is not exactly what its sidecar says, or not for this machine, is refused before anything reads it."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.engines import engine as engines
from export.engines.engine import build_engine, load_engine
from export.engines.sidecar import RECIPE_PATH, SIDECAR, Expected, read_sidecar, sha256_of, write_sidecar
from export.engines.spec import EngineSpec
from export.engines.tensorrt import backend as tensorrt_backend
from export.engines.tensorrt import rtx_backend as tensorrt_rtx_backend
from export.engines.tensorrt.options import BuildOptions
from export.runner import Engine, Unavailable

VERSION, GPU = "10.3.0", "8.7"
Edit = Callable[[Path], Any]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with TensorRT and a GPU, as far as a check can tell; what would read an engine fails the test."""

    def build(onnx_path: Path, engine_path: Path, **_: Any) -> Engine:
        engine_path.write_bytes(b"ptrt" + bytes(range(256)))
        return Engine(engine_path, None)

    def load(path: Path, *_: Any, **__: Any) -> None:
        pytest.fail(f"{path} was read")

    monkeypatch.setattr(engines, "backend_version", lambda backend: VERSION)
    monkeypatch.setattr(engines, "compute_capability", lambda: GPU)
    monkeypatch.setattr(tensorrt_backend, "build", build)
    monkeypatch.setattr(tensorrt_backend, "load", load)
    monkeypatch.setattr(tensorrt_rtx_backend, "load", load)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph that ONNX Runtime can load."""
    nodes = [helper.make_node("Cast", ["images"], ["logits"], "node", to=TensorProto.FLOAT)]
    values = [helper.make_tensor_value_info(name, kind, ["batch", 8, 8, 3])
              for name, kind in (("images", TensorProto.UINT8), ("logits", TensorProto.FLOAT))]  # fmt: skip
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), ir_version=9)
    model.opset_import[0].version = 20
    onnx.save(model, tmp_path / "fp16.onnx")
    return tmp_path / "fp16.onnx"


def built(graph: Path, spec: Preprocess, backend: str = "tensorrt") -> Path:
    """The folder of an engine in a run made from `my recipe.yaml`."""
    run_folder = graph.parent / "runs" / "mine"
    engine = EngineSpec(backend, "fp16", None, (1, 1, 8))
    build_engine(engine, graph, run_folder / "build" / engine.name, spec, ["a", "b"])
    (run_folder / RECIPE_PATH).write_text("my recipe.yaml", encoding="utf-8")
    return run_folder / "build" / engine.name


def change(key: str, value: Any) -> Edit:
    """An edit of the sidecar."""

    def edit(folder: Path) -> None:
        values = json.loads((folder / SIDECAR).read_text())
        assert key in values
        (folder / SIDECAR).write_text(json.dumps(values | {key: value}))

    return edit


def add(key: str, value: Any) -> Edit:
    """A sidecar of a release that knows more."""
    return lambda folder: (folder / SIDECAR).write_text(
        json.dumps(json.loads((folder / SIDECAR).read_text()) | {key: value})
    )


def version_compatible_of(version: str) -> Edit:
    """Versions are compared by their numbers then."""

    def edit(folder: Path) -> None:
        change("options", {"version_compatible": True})(folder)
        change("version", version)(folder)

    return edit


def cut(folder: Path) -> None:
    path = folder / "engine.plan"
    path.write_bytes(path.read_bytes()[:-1])


def tamper(folder: Path) -> None:
    path = folder / "engine.plan"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def of_rtx(folder: Path) -> None:
    """A plan of TensorRT-RTX, its hash in order, in a folder that says TensorRT."""
    (folder / "engine.plan").write_bytes(b"vtrt" + bytes(64))
    change("files", {"engine.plan": sha256_of(folder / "engine.plan")})(folder)


def without_sidecar(folder: Path) -> None:
    (folder / SIDECAR).unlink()


def half_sidecar(folder: Path) -> None:
    (folder / SIDECAR).write_text((folder / SIDECAR).read_text()[:50])


def without_plan(folder: Path) -> None:
    (folder / "engine.plan").unlink()


REFUSALS = [
    (cut, "a file was changed or cut off"),
    (tamper, "a file was changed or cut off"),
    (without_plan, "a file is missing"),
    (without_sidecar, "it has no sidecar"),
    (half_sidecar, "its sidecar cannot be read"),
    (
        lambda folder: (folder / SIDECAR).write_text("[1]"),
        "its sidecar cannot be read\n  got: a list in place of an object",
    ),
    (add("colour", "red"), "its sidecar cannot be read"),
    (add("task", 1), "its sidecar cannot be read\n  got: task: 1"),
    (change("files", ["engine.plan"]), "its sidecar cannot be read"),
    (change("classes", None), "its sidecar cannot be read\n  got: classes: None"),
    (change("version", None), "its sidecar cannot be read\n  got: version: None"),
    (change("max_batch", "8"), "its sidecar cannot be read\n  got: max_batch: '8'"),
    (change("options", {"new": 1}), "its sidecar cannot be read\n  got: no key 'new'"),
    (change("options", [1]), "its sidecar cannot be read\n  got: options: [1]"),
    (
        change("options", {"version_compatible": "no"}),
        "its sidecar cannot be read\n  got: options.version_compatible: 'no'",
    ),
    (change("batch_sizes", [1, 8]), "its sidecar cannot be read"),
    (change("preprocess", None), "its sidecar cannot be read\n  got: preprocess: None"),
    (change("preprocess", {}), "its sidecar cannot be read"),
    (change("preprocess", {"new": 1}), "its sidecar cannot be read"),
    (version_compatible_of("ten"), "it was built by tensorrt ten"),
    (change("files", {"engine.plan": "0" * 64, "../../x": "0" * 64}), "names files outside its folder"),
    (change("backend", "tensorrt_lite"), "no flavour of engine that is known here"),
    (change("backend", "tensorrt_rtx"), "its sidecar says tensorrt_rtx"),
    (of_rtx, "its sidecar says tensorrt\n  got: a plan of TensorRT-RTX"),
    (change("version", "10.4.0"), f"it was built by tensorrt 10.4.0\n  got: {VERSION} is installed"),
    (change("machine", "Linux-riscv64"), "it was built on Linux-riscv64"),
    (change("compute_capability", "8.6"), f"built for compute capability 8.6\n  got: this GPU has {GPU}"),
    (change("compute_capability", None), "built for compute capability a GPU it does not name"),
    (change("preprocess_sha256", "0" * 64), "its preprocessing does not match its hash"),
]


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize(("damage", "message"), REFUSALS, ids=lambda value: value if isinstance(value, str) else "")
def test_refused(graph: Path, spec: Preprocess, damage: Edit, message: str) -> None:
    folder = built(graph, spec)
    damage(folder)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_engine(folder, 1)
    runs = graph.parent / "runs"
    assert caught.value.next_step == (
        f"rm -r {runs}/mine/build && t2t-edge build --recipe 'my recipe.yaml' --runs {runs} --run mine"
    )


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (Expected(onnx_sha256="0" * 64), "it was built from another graph"),
        (Expected(preprocess_sha256="0" * 64), "it was built for another preprocessing"),
        (Expected(engine_sha256="0" * 64), "it is not the engine that was evaluated"),
    ],
)
def test_refused_where_the_caller_knows_better(graph: Path, spec: Preprocess, expected: Expected, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_engine(built(graph, spec), 1, expected=expected)


@pytest.mark.usefixtures("tensorrt")
def test_the_sidecar_says_what_the_engine_is(graph: Path, spec: Preprocess) -> None:
    folder = built(graph, spec)
    sidecar = read_sidecar(folder)
    assert (sidecar.backend, sidecar.version, sidecar.compute_capability) == ("tensorrt", VERSION, GPU)
    assert sidecar.machine == engines.machine() and sidecar.preprocess_sha256 == spec.sha256()
    assert sidecar.onnx_sha256 == sha256_of(graph)
    assert sidecar.files == {"engine.plan": sha256_of(folder / "engine.plan")}
    assert sidecar.batch_sizes == (1, 1, 8) and sidecar.build_options() == BuildOptions()
    written = (folder / SIDECAR).read_text()
    assert sidecar.task == "classification" and "task" not in json.loads(written)
    write_sidecar(replace(sidecar, task="segmentation"), folder)
    assert read_sidecar(folder) == replace(sidecar, task="segmentation")
    write_sidecar(sidecar, folder)
    assert (folder / SIDECAR).read_text() == written


@pytest.mark.usefixtures("tensorrt")
def test_a_sidecar_of_an_earlier_release_has_no_batch_sizes(graph: Path, spec: Preprocess) -> None:
    folder = built(graph, spec)
    values = json.loads((folder / SIDECAR).read_text())
    del values["batch_sizes"]
    (folder / SIDECAR).write_text(json.dumps(values))
    assert read_sidecar(folder).batch_sizes is None


@pytest.mark.usefixtures("tensorrt")
def test_an_engine_that_fits_is_read(graph: Path, spec: Preprocess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the refusals above would prove nothing."""
    read: list[Path] = []
    monkeypatch.setattr(tensorrt_backend, "load", lambda path, *_, **__: read.append(path))
    folder = built(graph, spec)
    load_engine(folder, 1, expected=Expected(sha256_of(graph), spec.sha256(), sha256_of(folder / "engine.plan")))
    assert read == [folder / "engine.plan"]


def test_the_command_names_what_the_caller_says(graph: Path, spec: Preprocess) -> None:
    folder = built(graph, spec, "onnxruntime")
    (folder / SIDECAR).unlink()
    with pytest.raises(InputError) as caught:
        load_engine(folder, 1, expected=Expected(rebuild="./t2t build --engine x"))
    assert caught.value.next_step == "./t2t build --engine x"


def test_a_graph_engine_of_another_machine_runs(graph: Path, spec: Preprocess) -> None:
    """ONNX Runtime's engine is the graph: it holds no machine code, and a device takes a host's."""
    folder = built(graph, spec, "onnxruntime")
    change("machine", "Linux-aarch64")(folder)
    _, runner = load_engine(folder, 1)
    with runner:
        assert runner.inputs[0].name == "images"


@pytest.mark.skipif(tensorrt_backend.version() is not None, reason="TensorRT is installed here")
def test_without_tensorrt_a_right_engine_is_unavailable(
    graph: Path, spec: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as here:
        here.setattr(engines, "backend_version", lambda backend: VERSION)
        here.setattr(engines, "compute_capability", lambda: GPU)
        here.setattr(tensorrt_backend, "build", lambda _, path, **__: (path.write_bytes(b"ptrt"), Engine(path))[1])
        folder = built(graph, spec)
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(Unavailable, match="tensorrt is not installed"):
        load_engine(tmp_path / "copy", 1)
