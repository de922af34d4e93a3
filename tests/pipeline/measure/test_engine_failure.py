"""One engine that fails at run time, and the report all the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from failing import OUT_OF_MEMORY, fail_engine
from onnx import TensorProto, helper
from small_run import write_run

from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from pipeline.report.values.format import recommendation
from pipeline.report.values.rows import gate_failed
from pipeline.report.values.schema import check_report


@pytest.fixture
def values(image_root: Path) -> dict[str, Any]:
    """A recipe of two engines."""
    return {
        "schema": 1,
        "data": {"name": "three classes", "root": str(image_root)},
        "model": {"name": "t2t_vit_mini", "image_size": 32},
        "quantize": {"precisions": ["fp32", "int8"]},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32", "int8"]}],
        "evaluate": {"batch_size": 10},
        "benchmark": {
            "batch_sizes": [1, 8], "warmup": 1, "warmup_ms": 0, "rounds": 1, "calls": 1, "threads": 1, "energy_seconds": 0,
        },
        "gate": {"min_relative_top1": 0.9},
    }  # fmt: skip


@pytest.mark.parametrize("most", [None, 0])
def test_the_others_are_judged_and_measured(
    values: dict[str, Any], spec: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    fail_engine(monkeypatch, "onnxruntime-int8", most, "measure.evaluate_stage", "measure.benchmark_stage")
    write_run(tmp_path / "run", values, spec)
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    check_report(report)
    rows = {row["name"]: row for row in report["variants"]}
    assert rows["onnxruntime-int8"]["status"] == "error"
    assert rows["onnxruntime-int8"]["reason"] == f"built, but it failed when it was run: {OUT_OF_MEMORY}"
    assert rows["onnxruntime-int8"]["top1"] is rows["onnxruntime-int8"]["latency_ms"] is None
    assert report["recommended"]["name"] == "onnxruntime-fp32" and rows["onnxruntime-fp32"]["latency_ms"]["p50"] > 0


def test_an_engine_that_fails_in_the_benchmark_keeps_its_accuracy(
    values: dict[str, Any], spec: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A batch of 8 is too large for it: nothing of it is measured, so it is not recommended."""
    fail_engine(monkeypatch, "onnxruntime-int8", 7, "measure.benchmark_stage")
    write_run(tmp_path / "run", values, spec)
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    check_report(report)
    (row,) = [row for row in report["variants"] if row["name"] == "onnxruntime-int8"]
    assert row["status"] == "error" and row["top1"] > 50 and row["latency_ms"] is None
    assert row["reason"] == f"it passed the gate and failed in the benchmark: {OUT_OF_MEMORY}"
    assert f"onnxruntime-int8: not measured: {OUT_OF_MEMORY}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "message"),
    [("measure.evaluate_stage", "no engine of this run can run"), ("measure.benchmark_stage", "can be measured")],
)
def test_where_all_fail_the_stage_does(
    values: dict[str, Any], spec: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, message: str
) -> None:
    values["build"][0]["precisions"] = ["int8"]
    fail_engine(monkeypatch, "onnxruntime-int8", 0, module)
    with pytest.raises(RuntimeError, match=f"{message}.*onnxruntime-int8: {OUT_OF_MEMORY}"):
        write_run(tmp_path / "run", values, spec)


@pytest.mark.parametrize(
    ("rows", "failed", "text"),
    [
        ([("fail", 50.0), ("error", None)], True, "keeps 99 % of FP32's top-1"),
        ([("fail", 50.0), ("error", 90.0)], False, "no engine ran to its end"),  # it passed, the benchmark failed
        ([("error", None), ("unavailable", None)], False, "no engine ran to its end"),
        ([("unavailable", None)], False, "no engine ran here"),
        ([("pass", 90.0), ("fail", 50.0)], False, "measured for speed"),
    ],
)
def test_the_gate_failed_only_where_it_judged(
    rows: list[tuple[str, float | None]], failed: bool, text: str
) -> None:  # fmt: skip
    variants = [{"status": status, "agreement": agreement} for status, agreement in rows]
    assert gate_failed(variants) is failed
    report = {"run": "x", "variants": variants, "recommended": None, "gate": {"min_relative_top1": 0.99}}
    assert text in recommendation(report)[0]


def test_what_onnx_runtime_raises_is_an_error_of_its_engine(tmp_path: Path) -> None:
    """Its own exceptions are no RuntimeErrors, and would end the stage."""
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match="ONNX Runtime: "):
        onnxruntime_backend.load(tmp_path / "broken.onnx", 1)
    node = helper.make_node("Reshape", ["images", "shape"], ["logits"], "node")
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 12])
    values = [helper.make_tensor_value_info(name, TensorProto.UINT8, sizes)
              for name, sizes in (("images", ["batch", 2, 2, 3]), ("logits", [1, 12]))]  # fmt: skip
    graph = helper.make_graph([node], "g", values[:1], values[1:], [shape])
    onnx.save(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "one.onnx"
    )
    with onnxruntime_backend.load(tmp_path / "one.onnx", 1) as runner:
        assert runner.infer({"images": np.zeros((1, 2, 2, 3), np.uint8)})["logits"].shape == (1, 12)
        with pytest.raises(RuntimeError, match=r"ONNX Runtime: .*Reshape"):
            runner.infer({"images": np.zeros((2, 2, 2, 3), np.uint8)})
