"""A bundle of a segmentation on a device: every command, in an environment with numpy, OpenCV and ONNX Runtime alone."""

import json
from pathlib import Path

import cv2
import numpy as np
from bundles import on_device
from segmentation_run import SCENE_CLASSES, copy_bundle

from export.engines.sidecar import SIDECAR
from pipeline.console.exit_status import DONE
from pipeline.device.contents import open_bundle
from pipeline.devices.check import check_results
from pipeline.report.values.schema import check_report


def test_a_bundle_of_a_segmentation_says_what_it_is(segmentation_run: Path) -> None:
    found = open_bundle(segmentation_run / "runs" / "shapes" / "bundle", "all")
    assert found.recipe.task == "segmentation" and found.classes == SCENE_CLASSES
    reference, labels, graphs = found.reference()
    assert reference.shape == labels.shape == (8, 32, 32) and reference.dtype == labels.dtype == np.uint8
    assert (graphs["graph:fp32"] == reference).mean() > 0.999 and set(np.unique(labels)) <= {0, 1, 2, 255}
    assert len(found.recipe.samples) == 8  # images have no class of their own: the first ones
    config = (found.folder / "triton" / "shapes" / "config.pbtxt").read_text()
    assert 'name: "logits" data_type: TYPE_FP32 dims: [ 3, 32, 32 ]' in config and "dims: [ 32, 32, 3 ]" in config
    text = (found.folder / "README.md").read_text()
    assert "./t2t predict IMAGE    # classes and their shares of the pixels" in text and "`NAME.classes.png`" in text
    assert "| Graph | mIoU % | Δ mIoU pp |" in text and "FP32 maps" in text and "top-1" not in text


def test_every_command_runs_in_a_bare_environment(segmentation_run: Path, bare_python: Path, tmp_path: Path) -> None:
    folder, saved = copy_bundle(segmentation_run, tmp_path / "bundle"), tmp_path / "saved"
    for command in (["doctor"], ["run", "--threads", "1"], ["check"]):
        done = on_device(bare_python, folder, *command)
        assert done.returncode == DONE, (command, done.stdout, done.stderr)
    report = json.loads((folder / "device" / "report" / "report.json").read_text())
    check_report(report)
    assert check_results("a", folder / "device", open_bundle(folder, "all"), "again") == report, "as a host computes it"
    rows = {row["name"]: row for row in report["variants"]}
    assert report["task"] == "segmentation" and set(rows) == {"onnxruntime-fp32", "onnxruntime-int8"}
    assert rows["onnxruntime-fp32"]["agreement"] > 99.9 and rows["onnxruntime-fp32"]["status"] == "pass"
    assert (
        json.loads((folder / "device" / "build" / "onnxruntime-int8" / SIDECAR).read_text())["task"] == "segmentation"
    )
    config = (folder / "device" / "triton" / "shapes" / "config.pbtxt").read_text()
    assert "dims: [ 3, 32, 32 ]" in config
    sample = folder / "samples" / "0000-00.png"
    done = on_device(bare_python, folder, "predict", str(sample), "--save", str(saved), "--json")
    assert done.returncode == DONE, done.stderr
    shares = {row["label"]: row["share"] for row in json.loads(done.stdout)["classes"]}
    assert set(shares) <= set(SCENE_CLASSES) and abs(sum(shares.values()) - 1) < 1e-9
    found = cv2.imread(str(saved / "0000-00.classes.png"), cv2.IMREAD_UNCHANGED)
    assert found.shape == (40, 48) and (found[:, :4] == 255).all() and (found[:, 4:44] < 3).all()  # the square is seen
    assert cv2.imread(str(saved / "0000-00.png")).shape == (240, 288, 3)  # enlarged, so that the legend fits
    assert not list(folder.rglob("__pycache__"))
