"""A whole run with an INT8 graph that OpenVINO 2026.4.1 computes as zeros: the engine is built of another one, and says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_run
from onnx import helper, numpy_helper

from calib.preprocess import Preprocess
from export.engines.sidecar import read_sidecar
from export.engines.spec import EngineSpec
from export.faults.computing import on_reference
from export.faults.first_wrong import Compute
from export.faults.without_qdq import quantized_nodes
from pipeline.artifact import Artifact, read_artifact
from pipeline.device.choice import choose, read_run
from pipeline.measure import evaluate_stage, right_graph
from pipeline.measure.evaluate_stage import evaluate_variant
from pipeline.recipe import Recipe
from pipeline.report.values.schema import check_report
from pipeline.tasks.task import task_named

pytest.importorskip("openvino")
CHANNELS = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
ROW = {
    "name": "openvino-int8", "backend": "openvino", "precision": "int8", "target": None, "graph": "int8-openvino",
    "status": "built", "reason": "",
    "layers": None, "size_bytes": 1, "sha256": "0" * 64,
}  # fmt: skip


def add_block(path: Path) -> None:
    """Put a residual block behind the normalisation that changes little: an INT8 convolution without a bias, which hands the
    three colours on in 16 channels, a branch in floating point, their sum, and the colours again."""
    proto = onnx.load(path)
    colours = np.eye(CHANNELS, 3, dtype=np.float32).reshape(CHANNELS, 3, 1, 1)
    branch = np.random.default_rng(0).normal(0, 1e-3, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
    constants = {
        "entry_steps": (colours * 127).astype(np.int8), "entry_scale": np.float32(1 / 127), "pixel_scale": np.float32(0.03),
        "branch_weight": branch, "colours": np.ascontiguousarray(colours.transpose(1, 0, 2, 3)), "none": np.int8(0),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["normalised", "pixel_scale", "none"], ["pixels_q"], "pixels_q"),
        helper.make_node("DequantizeLinear", ["pixels_q", "pixel_scale", "none"], ["pixels_dq"], "pixels_dq"),
        helper.make_node("DequantizeLinear", ["entry_steps", "entry_scale", "none"], ["entry_weight"], "entry_dq"),
        helper.make_node("Conv", ["pixels_dq", "entry_weight"], ["entered"], "entry"),
        helper.make_node("Conv", ["entered", "branch_weight"], ["branched"], "branch"),
        helper.make_node("Add", ["entered", "branched"], ["summed"], "sum"),
        helper.make_node("Conv", ["summed", "colours"], ["block"], "leave"),
    ]
    place = next(index for index, node in enumerate(proto.graph.node) if node.op_type == "AveragePool")
    proto.graph.node[place].input[0] = "block"
    for node in reversed(nodes):
        proto.graph.node.insert(place, node)
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


@pytest.fixture(scope="module")
def run(image_root: Path, spec: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; both CPU backends, FP32 and INT8."""
    quantize = small_run._quantize

    def with_block(folder: Path, *args: Any) -> dict[str, Any]:
        notes = quantize(folder, *args)
        for name in ("onnxruntime", "openvino"):
            add_block(folder / f"int8-{name}.onnx")
        return notes

    folder = tmp_path_factory.mktemp("runs") / "wrong"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_run, "_quantize", with_block)
        small_run.write_run(folder, values(image_root), spec)
    return folder


def values(image_root: Path) -> dict[str, Any]:
    """The run's recipe."""
    return {
        "schema": 1, "data": {"name": "three classes", "root": str(image_root)},
        "model": {"name": "t2t_vit_mini", "image_size": 32}, "quantize": {"precisions": ["fp32", "int8"]},
        "build": [{"backend": name, "precisions": ["fp32", "int8"]} for name in ("onnxruntime", "openvino")],
        "evaluate": {"batch_size": 10}, "gate": {"min_relative_top1": 0.9},
        "benchmark": {
            "batch_sizes": [1], "warmup": 1, "warmup_ms": 0, "rounds": 1, "calls": 1, "threads": 1, "energy_seconds": 0,
        },
    }  # fmt: skip


def artifact(run: Path, stage: str) -> Artifact:
    found = read_artifact(run / stage)
    assert found is not None
    return found


def row_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == name)


def test_the_engine_is_made_of_a_graph_of_its_own(run: Path) -> None:
    build = artifact(run, "build")
    row = row_of(build.notes["engines"], "openvino-int8")
    assert row["graph"] == "openvino-int8" and row["left_out"] == ["entry"]
    assert row["first_wrong"]["node"] == "sum" and row["first_wrong"]["role"] == "residual"
    assert row["first_wrong"]["snr_db"] < 10 < row["first_wrong"]["allowed_db"]
    sidecar = read_sidecar(run / "build" / "openvino-int8")
    assert sidecar.onnx_sha256 == build.outputs["openvino-int8.onnx"] and row["sha256"] == sidecar.files[sidecar.engine]
    kept = quantized_nodes(onnx.load(build.path("openvino-int8.onnx")))
    assert (
        len(kept) == 1 and onnx.load(artifact(run, "quantize").path("int8-openvino.onnx")).graph.node[-1].name in kept
    )
    for name in ("openvino-fp32", "onnxruntime-fp32", "onnxruntime-int8"):
        assert not row_of(build.notes["engines"], name).keys() & {"fault", "first_wrong", "left_out"}


def test_it_passes_the_gate_against_its_own_graph_and_says_so(run: Path) -> None:
    report = json.loads((run / "report" / "report.json").read_text())
    check_report(report)
    row = row_of(report["variants"], "openvino-int8")
    assert row["status"] == "pass" and row["agreement"] > 90
    assert "openvino computes sum (residual) wrong first" in row["reason"]
    assert "so 1 of its 2 INT8 layers compute in floating point here" in row["reason"]
    assert row["reason"] in (run / "report" / "report.md").read_text()


def test_onnx_runtime_is_asked_only_of_the_graphs_of_doubtful_engines(
    run: Path, image_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(run / "evaluate" / "logits.npz") as logits:
        assert {name for name in logits.files if name.startswith("graph:")} == {"graph:fp32", "graph:int8-onnxruntime"}
    monkeypatch.setattr(evaluate_stage, "MIN_ENGINE_AGREEMENT", 101.0)
    found = evaluated(run, image_root, tmp_path / "doubtful")
    assert {name for name in found if "openvino" in name} == {"openvino-fp32", "openvino-int8", "graph:openvino-int8"}
    difference = np.abs(found["openvino-int8"] - found["graph:openvino-int8"])
    assert 0 < difference.max() < 0.05 * np.abs(found["openvino-int8"]).max()


def evaluated(run: Path, image_root: Path, folder: Path) -> dict[str, np.ndarray]:
    """The answers that the run's evaluate stage writes."""
    folder.mkdir()
    inputs = {name: artifact(run, name) for name in ("export", "calibrate", "quantize", "build")}
    evaluate_stage.run(Recipe.model_validate(values(image_root)), inputs, folder)
    with np.load(folder / "logits.npz") as logits:
        return dict(logits)


def test_a_bundle_leaves_it_out(run: Path) -> None:
    found = read_run(run)
    choice = choose(found, None, dict.fromkeys(("fp32", "int8", "int8-onnxruntime", "int8-openvino"), ""))
    assert choice.engines["openvino"][0].precisions == ("fp32",)
    assert choice.engines["onnxruntime"][0].precisions == ("fp32", "int8")
    assert "wrong first" in choice.left_out["openvino-int8"]


def test_an_engine_that_cannot_be_recovered_stays(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives zeros for every graph. Its row tells the first wrong node, and evaluation fails it as it does others."""
    made = check(run, tmp_path, monkeypatch, lambda proto: np.zeros_like(on_reference(IMAGES, 1)(proto)))
    assert made["first_wrong"]["node"] == "node_00000" and made["first_wrong"]["operator"] == "Cast"
    assert "taking the layers around it out of INT8 does not help" in made["fault"]
    assert "left_out" not in made and made["graph"] == "int8-openvino" and not list(tmp_path.iterdir())
    logits = {name: np.eye(3, dtype=np.float32)[[0, 1, 2]] for name in ("graph:int8-openvino", "reference")}
    logits["openvino-int8"] = np.zeros((3, 3), np.float32)
    row = evaluate_variant(
        task_named("classification"), made, logits, {}, logits["reference"], 100.0, np.arange(3), 0.99
    )
    assert row["status"] == "fail" and "does not compute its graph" in row["reason"] and made["fault"] in row["reason"]


def test_an_engine_that_does_not_run_is_left_to_evaluation(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(proto: onnx.ModelProto) -> np.ndarray:
        raise RuntimeError("out of memory")

    assert check(run, tmp_path, monkeypatch, fail) == ROW
    assert "openvino-int8 could not be compared with its graph: out of memory" in capsys.readouterr().out


def test_a_right_engine_keeps_its_row(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(run, tmp_path, monkeypatch, on_reference(IMAGES, 1)) == ROW


def check(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, compute: Compute) -> dict[str, Any]:
    """The row of the run's `openvino-int8`, which is computed by `compute`."""
    monkeypatch.setattr(right_graph, "on_engine", lambda *_: compute)
    engine = EngineSpec("openvino", "int8", None, (1, 1, 1))
    graph = artifact(run, "quantize").path("int8-openvino.onnx")
    return right_graph.make_right(engine, ROW, graph, folder, lambda: IMAGES, lambda path: pytest.fail(f"built {path}"))
