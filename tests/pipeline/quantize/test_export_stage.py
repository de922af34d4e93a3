"""The export stage: how many images the graph is compared on, and what it prints of the reference."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.quantize import export_stage

pytestmark = pytest.mark.slow


def test_the_graph_is_compared_on_some_images_and_the_network_computes_all(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(export_stage, "COMPARED", 10)
    shutil.rmtree("runs/demo/export")
    assert main(["export"]) == 0
    printed = capsys.readouterr().out
    reference = json.loads(Path("runs/demo/evaluate/evaluation.json").read_text())["reference"]
    assert f"PyTorch FP32: top-1 {reference['top1']:.2f} % on 30 images" in printed
    assert json.loads(Path("runs/demo/export/manifest.json").read_text())["notes"]["images"] == 12  # of 3 batches of 10
