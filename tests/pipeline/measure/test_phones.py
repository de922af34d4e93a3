"""A whole run with engines for phones: what is said of them, their rows, a bundle with them, and a process that dies."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import write_run

from calib.preprocess import Preprocess
from export.engines.executorch.runner import ExecuTorchRunner
from export.engines.sidecar import read_sidecar, sha256_of
from pipeline.artifact import read_artifact
from pipeline.cli import main
from pipeline.console.exit_status import DONE
from pipeline.device.contents import open_bundle
from pipeline.measure.benchmark_stage import Candidates, measure
from pipeline.parts.measure import BenchmarkPart
from pipeline.predict.predict import Predictor
from pipeline.report.values.schema import check_report

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow
TIMING = {
    "batch_sizes": [1, 4],
    "warmup": 1,
    "warmup_ms": 0,
    "rounds": 1,
    "calls": 2,
    "threads": 1,
    "energy_seconds": 0,
}


@pytest.fixture(scope="module")
def run(image_root: Path, spec: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder. Its INT8 graph has no Q/DQ behind the product, as XNNPACK needs it: it is computed in FP32."""
    values = {
        "schema": 1, "data": {"name": "three classes", "root": str(image_root)},
        "model": {"name": "t2t_vit_mini", "image_size": 32}, "quantize": {"precisions": ["fp32", "int8"]},
        "build": [{"backend": name, "precisions": ["fp32", "int8"]} for name in ("executorch", "onnxruntime")],
        "evaluate": {"batch_size": 10}, "gate": {"min_relative_top1": 0.9}, "benchmark": TIMING,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "phones"
    write_run(folder, values, spec)
    return folder


def rows_of(run: Path, stage: str) -> dict[str, dict[str, Any]]:
    found = read_artifact(run / stage)
    assert found is not None
    if stage == "build":
        return {row["name"]: row for row in found.notes["engines"]}
    report = json.loads(found.path("report.json").read_text())
    check_report(report)
    return {row["name"]: row for row in report["variants"]}


def test_what_xnnpack_does_not_take_is_said(run: Path) -> None:
    built, reported = rows_of(run, "build"), rows_of(run, "report")
    for name, reason in (("executorch-fp32", ""), ("executorch-int8", "none of its 1 layers computes in INT8 here")):
        assert built[name]["layers"] == {"int8": 0, "fp16": 0, "fp32": 1}
        assert built[name]["portable"] == {"cast": 1} and not built[name].keys() & {"alarm", "fault"}
        assert read_sidecar(run / "build" / name).notes == {"portable": {"cast": 1}}
        assert reported[name]["reason"].startswith(reason) and bool(reason) == bool(reported[name]["reason"])
    assert built["executorch-int8"]["graph"] == "int8-executorch"
    assert read_sidecar(run / "build" / "onnxruntime-fp32").notes is None


def test_its_rows_are_as_any_other_engines(run: Path) -> None:
    rows = rows_of(run, "report")
    assert all(row["status"] == "pass" for row in rows.values())
    assert rows["executorch-fp32"]["agreement"] == 100
    assert set(rows["executorch-fp32"]["images_per_s"]) == {"1", "4"}
    assert 0 < rows["executorch-fp32"]["peak_memory_bytes"] < 300e6
    with np.load(run / "evaluate" / "logits.npz") as logits:
        np.testing.assert_allclose(logits["executorch-fp32"], logits["onnxruntime-fp32"], rtol=1e-3, atol=1e-3)


def test_it_predicts(run: Path, image_root: Path) -> None:
    paths = sorted((image_root / "val").rglob("*.png"))[:3]
    with Predictor(run, engine="executorch-fp32") as ours, Predictor(run, engine="onnxruntime-fp32") as theirs:
        for path in paths:
            (found,), (expected,) = list(ours.stream(path)), list(theirs.stream(path))
            assert found.label == expected.label


def test_the_bundle_has_them_with_an_example(run: Path, image_root: Path) -> None:
    assert main(["bundle", "--runs", str(run.parent), "--run", run.name, "--images", "6"]) == DONE
    bundle = open_bundle(run / "bundle", "all")
    android = bundle.folder / "android"
    assert set(bundle.recipe.engines) == {"onnxruntime", "tensorrt"}, "a device is no phone"
    for name in ("executorch-fp32", "executorch-int8"):
        assert sha256_of(android / f"{name}.pte") == rows_of(run, "build")[name]["sha256"]
    assert (android / "labels.txt").read_text() == "class_0\nclass_1\nclass_2\n"
    assert (android / "sample.rgb").read_bytes() == bundle.images()[0].tobytes()
    readme, example = (android / "README.md").read_text(), (android / "Classifier.kt").read_text()
    assert "**Nothing here was run on a phone.**" in readme and "adb push executor_runner executorch-int8.pte" in readme
    assert "const val HEIGHT = 32" in (android / "Preprocessing.kt").read_text()
    assert example.count("{") == example.count("}") and len(example.splitlines()) <= 60
    assert "`android/`" in (bundle.folder / "README.md").read_text()


def test_a_bundle_of_one_engine_has_its_precision_alone(run: Path, tmp_path: Path) -> None:
    chosen = ["--engine", "onnxruntime-fp32", "--output", str(tmp_path / "bundle"), "--images", "3"]
    assert main(["bundle", "--runs", str(run.parent), "--run", run.name, *chosen]) == DONE
    programs = {path.name for path in (tmp_path / "bundle" / "android").glob("*.pte")}
    assert programs == {"executorch-fp32.pte"}


def test_a_process_that_dies_while_it_is_measured_is_told_and_the_others_go_on(run: Path) -> None:
    found = Candidates()
    with ExecuTorchRunner(run / "build" / "executorch-fp32" / "engine.pte", 1) as runner:
        from export.engines import onnxruntime_backend

        with onnxruntime_backend.load(run / "build" / "onnxruntime-fp32" / "engine.onnx", 1) as other:
            runners, limits = {"phone": runner, "host": other}, {"phone": None, "host": None}
            os.kill(runner._process.pid, signal.SIGKILL)
            images = np.zeros((4, 32, 32, 3), np.uint8)
            seconds = measure(runners, images, BenchmarkPart(**TIMING), limits, missing=found.missing)
    assert set(seconds) == {"host"} and found.missing["phone"].status == "error"
    assert "ended by SIGKILL" in found.missing["phone"].reason
