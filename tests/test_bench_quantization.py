"""tests/bench/quantization.py: every row is a point of a recipe, what a report makes of a row, which rows stay, the table."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import reports
import yaml
from bench import quantization
from bench.quantization_networks import NETWORKS
from bench.quantization_rows import Row, points_of, row_of, rows_of
from bench.quantization_table import in_words, table
from PIL import Image

from pipeline.parts.data import DataPart
from pipeline.sweep.planning.file import load_sweep
from pipeline.sweep.planning.points import Point, make_points

ROOT = Path(__file__).parents[1]
OF = {"cpu": "a CPU with 2 cores", "images": 10000, "checkpoint": "c0ffee" * 10}
QUANTIZED = {"seconds": 5.1, "notes": {"quantized": {"int8": {"kinds": []}}}}


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables --><!-- /tables -->\nafter\n")
    return argparse.Namespace(results=tmp_path / "results.json", page=page, runs=tmp_path, only=None, again=False)


@pytest.fixture
def report() -> dict[str, Any]:
    """ONNX Runtime's INT8 takes half of FP32's time; OpenVINO's was built and failed."""
    engines = [
        reports.evaluated("onnxruntime", "fp32", 88.1), reports.evaluated("onnxruntime", "int8", 87.9),
        reports.evaluated("openvino", "fp32", 88.1), reports.evaluated("openvino", "int8", None),
    ]  # fmt: skip
    engines[1]["layers"] = {"int8": 22, "fp16": 0, "fp32": 24}
    dataset = {"name": "fashion-mnist", "classes": 10, "eval_images": 10000, "calibration_images": 512}
    benchmark = {
        "machine": {"cpu": OF["cpu"], "gpu": None, "versions": {"onnxruntime": "1.31.1"}}, "mode": reports.MODE, "failed": {},
        "variants": {"onnxruntime-fp32": reports.measured(2.0), "onnxruntime-int8": reports.measured(1.0),
                     "openvino-fp32": reports.measured(2.0)},
    }  # fmt: skip
    return reports.build({"reference": reports.REFERENCE, "variants": engines, "dataset": dataset}, benchmark)


def row_called(label: str, network: str = "t2t_vit_mini") -> Row:
    return next(row for row in rows_of(network) if row.label == label)


def points(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Point]:
    """All points of `make quantization`, as the sweep plans them."""
    monkeypatch.chdir(ROOT)
    rows = [row for network in NETWORKS for row in rows_of(network)]
    path = folder / "points.yaml"
    path.write_text(yaml.safe_dump(quantization.sweep_file(rows, Path("data/fashion-mnist"), 2), sort_keys=False))
    return {point.name: point for point in make_points(load_sweep(path), path)}


def test_every_row_is_an_engine_of_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = points(tmp_path, monkeypatch)
    assert len(found) == sum(len(points_of(rows_of(network))) for network in NETWORKS) == 4 * 23 + 6
    for network in NETWORKS:
        for row in rows_of(network):
            recipe = found[row.point].recipe
            assert recipe.model.name == network
            built = [(part.backend, part.precisions) for part in recipe.build]
            assert [backend for backend, _ in built] == ["onnxruntime", "openvino"]
            assert all({"fp32", row.precision} <= set(precisions) for _, precisions in built)


def test_a_label_is_what_its_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = points(tmp_path, monkeypatch)
    one = found[row_called("+attention / mse").point].recipe.quantize
    assert (one.policy, one.method, one.weight_bits, one.precisions) == ("+attention", "mse", 8, ("fp32", "int8"))
    few = found["t2t_vit_mini-weights-percentile-32"].recipe
    assert (few.quantize.policy, few.quantize.method, few.calibrate.images) == ("weights", "percentile", 32)
    trained = found[row_called("full / trained / 4-bit weights", "resnet50").point].recipe
    assert (trained.quantize.policy, trained.quantize.weight_bits, trained.qat.epochs) == ("full", 4, 1)
    assert trained.quantize.precisions == ("fp32", "int8-qat") and trained.train.epochs == 1
    assert row_called("fp16").point == row_called("fp32").point == "t2t_vit_mini"


def test_a_row_of_a_report(report: dict[str, Any]) -> None:
    notes = {"quantized": {"int8": {"kinds": [], "alpha": "0.7"}}}
    row = row_of(row_called("weights / smoothquant"), report, QUANTIZED | {"notes": notes})
    assert row["settings"] == {
        "quantize": {"policy": "weights", "method": "smoothquant"}, "versions": {"onnxruntime": "1.31.1"},
    }  # fmt: skip
    assert row["alpha"] == "0.7" and row["seconds"] == 5.1
    ours = row["onnxruntime"]
    assert (ours["top1"], ours["agreement"], ours["speed"], ours["latency_ms"]) == (87.9, 98.0, 2.0, 1.0)
    assert ours["delta"] == pytest.approx(-0.2) and ours["ci95"] == pytest.approx([-0.5, 0.0]) and ours["finite"]
    assert row["openvino"] == {"error": reports.NO_GPU}
    told = table("net", OF, {"weights / smoothquant": row})
    assert (
        "| weights / smoothquant (alpha 0.7) | 22 of 46 / – | 5.0 / – | 87.90 | -0.20 (-0.50 … +0.00) | 98.00 |" in told
    )
    assert "ONNX Runtime 87.90 -0.20 (-0.50 … +0.00) 98.00 2.00" in in_words(row)


def test_what_a_network_refuses_is_a_row_and_an_accident_is_none() -> None:
    labels = ("+attention / max", "full / max", "full / mse")
    refused, broken, killed = (row_called(label, "resnet50") for label in labels)
    told = {
        refused.point: {"status": "failed", "stage": "quantize", "reason": "no attention"},
        broken.point: {"status": "failed", "stage": "build", "reason": "no space left on device"},
        killed.point: {"status": "failed", "stage": "quantize", "reason": "MemoryError: cannot allocate"},
    }
    found = quantization.measured_rows([refused, broken, killed], told, Path())
    assert found == {"+attention / max": {"unavailable": "no attention"}}
    assert [quantization.is_broken(point) for point in told.values()] == [False, True, True]


def test_rows_of_the_same_origin_stay(options: argparse.Namespace, report: dict[str, Any]) -> None:
    old = json.loads((ROOT / "results/quantization.json").read_text())["t2t_vit_mini"]
    options.results.write_text(
        json.dumps({"t2t_vit_mini": {"of": OF, "rows": {"full / max": old["rows"]["full / max"]}}})
    )
    wanted = quantization.missing("t2t_vit_mini", OF, options)
    assert "full / max" not in wanted and "weights / max" in wanted and "modelopt, max" in wanted
    row = row_of(row_called("weights / max"), report, QUANTIZED)
    quantization.keep_rows("t2t_vit_mini", OF, {"weights / max": row}, options)
    rows = json.loads(options.results.read_text())["t2t_vit_mini"]["rows"]
    assert list(rows) == ["weights / max", "full / max"] and rows["full / max"] == old["rows"]["full / max"]
    text = options.page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "checkpoint c0ffeec0ffee; of one graph for both engines: full / max; made by" in text
    options.again = True
    assert "full / max" in quantization.missing("t2t_vit_mini", OF, options)


def test_rows_of_another_origin_are_not_given_up_in_silence(
    options: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    options.results.write_text(json.dumps({"t2t_vit_mini": {"of": OF | {"images": 10}, "rows": {"fp32": {}}}}))
    assert "fp32" in quantization.missing("t2t_vit_mini", OF, options)
    assert "1 rows are measured anew and replaced, they are of images 10, now 10000" in capsys.readouterr().out
    options.only = ["fp16"]
    with pytest.raises(SystemExit, match="give --results another file"):
        quantization.missing("t2t_vit_mini", OF, options)
    options.only = ["no such row"]
    with pytest.raises(SystemExit, match="has no row 'no such row'"):
        quantization.missing("t2t_vit_mini", OF, options)


def test_the_table_of_kept_rows_is_the_pages() -> None:
    """Rows from before the sweep, of one graph, are told as they were."""
    page = (ROOT / "docs/quantization.md").read_text()
    for name, kept in json.loads((ROOT / "results/quantization.json").read_text()).items():
        assert table(name, kept["of"], kept["rows"]) in page


def test_few_images_evaluate_and_all_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / "data" / split / label / f"{index}.png")
    monkeypatch.setattr(quantization, "DATA", DataPart(name="few", root=tmp_path / "data"))
    assert quantization.images_of(8, tmp_path / "runs") == tmp_path / "data"
    root = quantization.images_of(4, tmp_path / "runs")
    assert quantization.images_of(4, tmp_path / "runs") == root
    assert len(list(root.glob("val/*/*.png"))) == 4 and len(list((root / "train").glob("*/*.png"))) == 8
