"""BF16 engines in a whole run: unavailable with the reason where the CPU has none, built, judged and measured where it has."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from chain_run import copy_run, recipe_values, run, write_recipe

from calib.preprocess import preprocess
from export.engines import openvino_backend
from export.engines.engine import load_engine
from export.onnx_export import INPUT, OUTPUT, read_metadata
from pipeline.console.exit_status import DONE
from pipeline.measure import benchmark_stage
from pipeline.report.values.schema import check_report

pytestmark = pytest.mark.slow

PRECISIONS = ["fp32", "int8", "bf16", "int8-bf16"]


@pytest.fixture
def folder(chain: Path, image_root: Path, tmp_path: Path) -> Path:
    """The chain, with OpenVINO's engines alone."""
    folder = copy_run(chain, tmp_path / "chain")
    changes = {
        "quantize": {"precisions": PRECISIONS}, "build": [{"backend": "openvino", "precisions": PRECISIONS}],
        "benchmark": {"batch_sizes": [1], "warmup_ms": 0, "rounds": 1, "calls": 1, "energy_seconds": 0, "threads": 1},
        "visualize": {"images": 8, "channels": 4, "backend": "openvino", "precision": "bf16"},
    }  # fmt: skip
    write_recipe(folder / "recipe.yaml", recipe_values(image_root) | changes)
    return folder


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((folder / "runs" / "small" / "report" / "report.json").read_text())
    check_report(report)
    return {row["precision"]: row for row in report["variants"]}


def test_without_bf16_instructions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_backend, "bf16_instructions", list)
    assert run(folder, "run") == DONE
    found = rows(folder)
    assert found["fp32"]["status"] == "pass" and found["int8"]["top1"] is not None
    for precision in ("bf16", "int8-bf16"):
        assert found[precision]["status"] == "unavailable" and found[precision]["top1"] is None
        assert found[precision]["reason"] == "this CPU has no BF16 instructions: neither AVX512_BF16 nor AMX_BF16"


@pytest.mark.usefixtures("emulated_bf16")
def test_with_them(
    folder: Path,
    photographs: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The FP32 graph of a trained network, and its INT8 one: the classes are FP32's on photographs that it never saw."""
    monkeypatch.setattr(benchmark_stage, "engine_memory", lambda *_: None)  # in another process, on the CPU that it has
    assert run(folder, "run") == DONE
    found, printed = rows(folder), capsys.readouterr().out
    assert "does not run here" not in printed, "visualize has an engine"
    quantized = found["int8-bf16"]["layers"]["int8"]
    assert quantized >= found["int8"]["layers"]["int8"] > 20, (
        "in FP32 some are in larger kernels, which are not counted"
    )
    for precision, int8, fp32 in (("bf16", 0, 14), ("int8-bf16", quantized, 8)):
        row = found[precision]
        assert row["status"] == "pass" and row["agreement"] == 100 and row["latency_ms"]["p50"] > 0
        assert row["layers"]["int8"] == int8 and row["layers"]["bf16"] > 0 and row["layers"]["fp32"] == fp32
    assert "bf16" not in found["fp32"]["layers"]
    page = (folder / "runs" / "small" / "report" / "report.html").read_text(encoding="utf-8")
    assert f"openvino-int8-bf16: {quantized} INT8, " in page and "BF16</li>" in page
    spec, _ = read_metadata(onnx.load(folder / "runs" / "small" / "export" / "fp32.onnx"))
    chosen = photographs["val_images"][photographs["val_labels"] < 3][:400]
    images = np.stack([preprocess(np.repeat(image[..., None], 3, -1), spec) for image in chosen])
    classes = {}
    for precision in ("fp32", "bf16", "int8-bf16"):
        _, runner = load_engine(folder / "runs" / "small" / "build" / f"openvino-{precision}", 1)
        with runner:
            classes[precision] = runner.infer({INPUT: images})[OUTPUT].argmax(1)
    for precision in ("bf16", "int8-bf16"):
        same = 100 * (classes[precision] == classes["fp32"]).mean()
        assert len(images) == 400 and same >= 99.5, f"{precision}: {same:.2f} %"
