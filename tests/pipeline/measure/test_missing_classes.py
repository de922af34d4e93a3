"""Classes without evaluation images: the engines are judged on the others, and the report says so."""

import json
import shutil
from pathlib import Path

import pytest
from small_run import write_run

from calib.preprocess import Preprocess
from pipeline.report.values.schema import check_report


@pytest.mark.parametrize("left", [2, 1])
def test_the_engines_are_judged_on_the_others(image_root: Path, tmp_path: Path, spec: Preprocess, left: int) -> None:
    root = shutil.copytree(image_root, tmp_path / "images")
    missing = ["class_0", "class_1"][: 3 - left]
    for name in missing:
        shutil.rmtree(root / "val" / name)
    (root / "val" / missing[0]).mkdir()  # empty, the other is not there
    write_run(tmp_path / "run", {
        "schema": 1, "data": {"name": "three classes", "root": str(root)}, "model": {"name": "t2t_vit_mini", "image_size": 32},
        "quantize": {"precisions": ["fp32"]}, "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}],
        "visualize": {"precision": "fp32"},
        "benchmark": {
            "batch_sizes": [1], "warmup": 1, "warmup_ms": 0, "rounds": 1, "calls": 1, "threads": 1, "energy_seconds": 0
        },
    }, spec)  # fmt: skip
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    check_report(report)
    assert report["dataset"]["classes"] == 3 and report["dataset"]["eval_images"] == 10 * left
    assert report["dataset"]["classes_without_images"] == missing
    (row,) = report["variants"]
    assert row["status"] == "pass" and row["agreement"] == 100 and row["latency_ms"]["p50"] > 0
