"""The whole chain through the command line, on real photographs: run, skip, resume, and everything a person can get wrong."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from bench.numerics import compare
from chain_run import copy_run, recipe_values, run, write_recipe
from processes import Forked

from calib.images import read_split
from calib.preprocess import Preprocess
from export.engines import engine as engines
from export.engines.engine import load_engine
from export.engines.sidecar import SIDECAR, read_sidecar
from pipeline import stages
from pipeline.cli import main
from pipeline.console.exit_status import DONE, FAILED, GATE_FAILED, WRONG_INPUT
from pipeline.device.cli import run_command
from pipeline.measure.evaluate_stage import failure_reason, fallback
from pipeline.parts.model import ModelPart
from pipeline.quantize import export_stage
from pipeline.report.values.schema import check_report
from pipeline.tasks.task import task_named
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.weights import build_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_report_is_complete_and_true_to_its_schema(chain: Path) -> None:
    folder = chain / "runs" / "small" / "report"
    report = json.loads((folder / "report.json").read_text())
    check_report(report)
    rows = {row["name"]: row for row in report["variants"]}
    assert set(rows) == {
        "onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8", "tensorrt_rtx-int8-fp16-sm86", "tensorrt-fp16",
    }  # fmt: skip
    assert rows["openvino-fp32"]["status"] == "pass" and rows["openvino-fp32"]["agreement"] == 100
    assert rows["openvino-int8"]["layers"]["int8"] > 10 and rows["openvino-fp32"]["layers"]["int8"] == 0
    for name in ("tensorrt_rtx-int8-fp16-sm86", "tensorrt-fp16"):
        assert rows[name]["status"] == "unavailable" and rows[name]["reason"] and rows[name]["top1"] is None
    assert rows["tensorrt_rtx-int8-fp16-sm86"]["layers"]["int8"] > 0  # a real engine, built without a GPU
    assert report["recommended"]["name"] in rows
    assert rows["openvino-fp32"]["comparison"]["mcnemar_p"] == 1.0 and report["enough_images"]["images"] == 30
    for row in rows.values():
        kept = row.get("percentiles_ms")
        assert (kept is None) == (row["latency_ms"] is None)
        if kept:
            assert kept["1"][50] == pytest.approx(row["latency_ms"]["p50"], rel=1e-4) and set(kept) == {"1", "8"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    for heading in ("What the engines change", "How latency spreads", "Layer precisions", "Calibration set"):
        assert f">{heading}</h2>" in page
    assert "name: three classes" in page, "the recipe"
    assert {path.name for path in folder.iterdir()} >= {"report.json", "report.md", "report.html", "tradeoff.png"}


def test_manifests_hold_what_was_measured(chain: Path) -> None:
    manifest = json.loads((chain / "runs" / "small" / "export" / "manifest.json").read_text())
    assert manifest["notes"]["logit_difference_max"] < 2e-3 and manifest["notes"]["agreement"] >= 99.9
    nodes = json.loads((chain / "runs" / "small" / "export" / "nodes.json").read_text())
    assert nodes["accepted"] and nodes["nodes_after"]["total"] < nodes["nodes_before"]["total"]


def test_nothing_changed_means_nothing_runs(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def times() -> dict[Path, int]:
        """Of all files but the log, which says of this command, too, what it printed."""
        found = [path for path in (chain / "runs").rglob("*") if path.is_file() and path.name != "log.txt"]
        return {path: path.stat().st_mtime_ns for path in found}

    before = times()
    assert run(chain, "run") == DONE
    assert "running" not in capsys.readouterr().out
    assert before == times() and len(before) > 20


def test_a_changed_value_runs_only_what_depends_on_it(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_run(chain, tmp_path / "chain")
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    values["gate"] = {"min_relative_top1": 0.5}
    write_recipe(folder / "recipe.yaml", values)
    assert run(folder, "run") == DONE
    ran = {line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines() if line.endswith(": running")}
    assert ran == {"evaluate", "report"}


def test_more_calibration_images_than_there_are(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_run(chain, tmp_path / "chain")
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    values["calibrate"]["images"] = 61
    write_recipe(folder / "recipe.yaml", values)
    assert run(folder, "calibrate") == WRONG_INPUT
    assert "too few images" in capsys.readouterr().err
    assert (folder / "runs" / "small" / "calibrate" / "calibration.npz").is_file()  # the earlier set stays


def test_a_damaged_output_is_made_again(chain: Path, tmp_path: Path) -> None:
    folder = copy_run(chain, tmp_path / "chain")
    path = folder / "runs" / "small" / "calibrate" / "calibration.npz"
    good = path.read_bytes()
    path.write_bytes(good[:100])
    assert run(folder, "calibrate") == DONE
    assert path.stat().st_size == len(good)


def test_predict_prints_class_and_probability(
    chain: Path, image_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(chain, "predict", str(image_root / "val" / "class_1")) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all(line.endswith(" %") and "class_" in line for line in lines)


def test_predict_goes_on_after_a_bad_image(
    chain: Path, image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(next((image_root / "val" / "class_0").iterdir()), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert run(chain, "predict", str(tmp_path)) == DONE
    printed = capsys.readouterr()
    assert "1 predicted" in printed.err and "1 skipped" in printed.err
    assert "good.png" in printed.out and "bad.png: this image cannot be decoded" in printed.err


def test_the_bundle_of_a_real_network_works_on_a_device(chain: Path, tmp_path: Path) -> None:
    """tests/pipeline/device/test_bundle.py has the rest, with a smaller network."""
    output = tmp_path / "bundle"
    assert run(chain, "bundle", "--images", "12", "--output", str(output)) == DONE
    assert run_command(output, ["run", "--backend", "onnxruntime"]) == DONE
    report = json.loads((output / "device" / "report" / "report.json").read_text())
    check_report(report)
    rows = {row["name"]: row for row in report["variants"]}
    assert rows["onnxruntime-fp32"]["status"] == "pass" and rows["onnxruntime-fp32"]["agreement"] == 100
    recipe = json.loads((output / "recipe.json").read_text())
    (plan,) = recipe["engines"]["tensorrt_rtx"]
    assert "int8-fp16" in plan["precisions"] or "graph int8-fp16" in recipe["left_out"]


def test_predict_needs_no_torch(chain: Path, image_root: Path) -> None:
    """The device side: numpy, OpenCV and an engine runtime. torch, timm, pydantic, rich and modelopt must not be imported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'timm', 'onnx', 'pydantic', 'rich', 'modelopt', 'matplotlib', 'scipy'): sys.modules[name] = None\n"
        "from pipeline.cli import main\n"
        f"sys.exit(main(['predict', '--runs', {str(chain / 'runs')!r}, '--run', 'small', {str(image_root / 'val')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == DONE, done.stderr
    assert len(done.stdout.splitlines()) == 30


def test_float32_is_close_to_the_float64_literal_form_on_trained_weights(chain: Path, image_root: Path) -> None:
    checkpoint = read_checkpoint(chain / "runs" / "small" / "train" / "checkpoint.pt")
    result = compare(
        build_model(checkpoint, ModelPart(name=checkpoint.model, image_size=checkpoint.image_size)),
        Preprocess.from_dict(checkpoint.preprocess),
        read_split(image_root, "train"),
    )  # photographs on flat black
    assert result["median"] < 1e-3 and result["worst"] < 5e-3 and result["same_top1_percent"] >= 99.9, result


# --- what a person can get wrong ------------------------------------------------------------------------------------


def with_value(values: dict, key: str, value: object) -> dict:
    *path, last = key.split(".")
    part = values
    for name in path:
        part = part[name]
    part[last] = value
    return values


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.epoch", 3, "train.epoch: no such key"),
        ("train.lr", -1, "train.lr = -1"),
        ("model.name", "t2t_vit_15", "t2t_vit_15"),
        ("schema", 2, "schema = 2"),
        ("build", [{"backend": "tensorrt_rtx", "precisions": ["fp16"]}], "targets go with backend tensorrt_rtx"),
        ("quantize", {"precisions": ["fp32"]}, "which quantize.precisions does not make"),
        ("train.epochs", 0, "model.checkpoint must name the weights"),
        ("data.root", "/nowhere", "images are missing"),
        ("model.checkpoint", "gone.pt", "gone.pt"),
    ],
)
def test_wrong_recipe(
    image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object, message: str
) -> None:
    values = with_value(recipe_values(image_root), key, value)
    if key == "model.checkpoint":
        values["train"]["epochs"] = 0
    write_recipe(tmp_path / "recipe.yaml", values)
    assert run(tmp_path, "calibrate") == WRONG_INPUT
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "cannot be read as YAML"), ("- 1", "is not a mapping"), (None, "no such recipe")]
)
def test_unreadable_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "recipe.yaml").write_text(text)
    assert run(tmp_path, "run") == WRONG_INPUT
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x", "", "a/b"])
def test_run_names_stay_in_the_runs_folder(chain: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(chain, "predict", "x.png", "--run", name) == WRONG_INPUT
    assert "plain folder name" in capsys.readouterr().err


def test_unknown_command_is_wrong_use() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == WRONG_INPUT


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_corrupt_image_is_named_and_earlier_results_stay(
    chain: Path, image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    folder = copy_run(chain, tmp_path / "chain")
    root = shutil.copytree(image_root, tmp_path / "images")
    (root / split / "class_1" / "003.png").write_bytes(b"\x89PNG cut off")
    write_recipe(folder / "recipe.yaml", recipe_values(root))
    before = (folder / "runs" / "small" / "train" / "checkpoint.pt").read_bytes()
    assert run(folder, "run") == WRONG_INPUT
    printed = capsys.readouterr().err
    assert (
        "cannot be decoded" in printed and str(root / split / "class_1" / "003.png") in printed and "next: " in printed
    )
    assert (folder / "runs" / "small" / "train" / "checkpoint.pt").read_bytes() == before
    assert run(folder, "predict", str(image_root / "val" / "class_0")) == DONE  # the finished run still works


def test_a_checkpoint_for_other_classes_or_more(
    chain: Path, image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of images of some of its classes those are evaluated; a class that it does not know is an error."""
    root = shutil.copytree(image_root, tmp_path / "images")
    for split in ("train", "val"):
        shutil.rmtree(root / split / "class_2")
    values = recipe_values(root)
    values["model"]["checkpoint"] = str(chain / "runs" / "small" / "train" / "checkpoint.pt")
    values["train"]["epochs"] = 0
    write_recipe(tmp_path / "recipe.yaml", values)
    assert run(tmp_path, "train") == DONE
    assert "classes: the network's 3, named in its checkpoint; 2 of them in" in capsys.readouterr().out
    for split in ("train", "val"):
        (root / split / "class_1").rename(root / split / "unknown")
    assert run(tmp_path, "train") == WRONG_INPUT
    printed = capsys.readouterr().err
    assert "trained for other classes" in printed and "unknown" in printed


def test_a_taken_over_checkpoint_gives_the_same_network(chain: Path, image_root: Path, tmp_path: Path) -> None:
    values = recipe_values(image_root)
    values["model"]["checkpoint"] = str(chain / "runs" / "small" / "train" / "checkpoint.pt")
    values["train"]["epochs"] = 0
    write_recipe(tmp_path / "recipe.yaml", values)
    assert run(tmp_path, "train") == DONE
    first, second = (
        read_checkpoint(folder / "runs" / "small" / "train" / "checkpoint.pt") for folder in (chain, tmp_path)
    )
    assert first.classes == second.classes and first.state_dict.keys() == second.state_dict.keys()
    assert all(torch.equal(first.state_dict[name], tensor) for name, tensor in second.state_dict.items())


def test_a_full_disk_leaves_nothing_half(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_run(chain, tmp_path / "chain")
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    values["export"] = {"opset": 19}
    write_recipe(folder / "recipe.yaml", values)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_stage, "export_onnx", full)
    before = (folder / "runs" / "small" / "export" / "fp32.onnx").read_bytes()
    assert run(folder, "export") == FAILED
    assert "the disk is full" in capsys.readouterr().err
    assert (folder / "runs" / "small" / "export" / "fp32.onnx").read_bytes() == before


def test_an_interrupted_training_goes_on(image_root: Path, tmp_path: Path) -> None:
    """Ctrl-C in mid-training: status 1, one line, no artifact; the same command then finishes from the last epoch."""
    values = recipe_values(image_root)
    values["train"] |= {"epochs": 8, "eval_every": 8}
    recipe, runs, log = write_recipe(tmp_path / "recipe.yaml", values), tmp_path / "runs", tmp_path / "log.txt"
    command = ["train", "--recipe", str(recipe), "--runs", str(runs), "--run", "small"]
    process = Forked(main, command, log=log)
    last = runs / "small" / ".train.partial" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == FAILED, log.read_text()
    assert "interrupted" in log.read_text() and "Traceback" not in log.read_text()
    assert not (runs / "small" / "train").exists() and last.exists()
    os.utime(last)
    assert main(command) == DONE
    epochs = [line.split(",")[0] for line in (runs / "small" / "train" / "metrics.csv").read_text().splitlines()[1:]]
    assert epochs == [str(epoch) for epoch in range(1, 9)]


def test_ctrl_c_inside_a_c_function_is_an_interruption(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPython turns a KeyboardInterrupt that a C function ignored into a SystemError: seen in torch.save."""

    def interrupted(_: object) -> int:
        raise SystemError(
            "<function PurePath.__str__> returned a result with an exception set"
        ) from KeyboardInterrupt()

    monkeypatch.setattr("pipeline.commands.models._models", interrupted)
    assert main(["models"]) == FAILED
    error = capsys.readouterr().err
    assert error.startswith("interrupted: ") and error.count("\n") == 1


def test_another_system_error_is_not_taken_for_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> int:
        raise SystemError("a C extension is broken")

    monkeypatch.setattr("pipeline.commands.models._models", broken)
    with pytest.raises(SystemError, match="a C extension is broken"):
        main(["models"])


def test_no_engine_through_the_gate_is_status_3(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_run(chain, tmp_path / "chain")
    path = folder / "runs" / "small" / "report" / "report.json"
    shutil.rmtree(path.parent)
    evaluation = folder / "runs" / "small" / "evaluate" / "evaluation.json"
    values = json.loads(evaluation.read_text())
    for row in values["variants"]:
        if row["status"] == "pass":
            row.update(status="fail", reason="top-1 fell")
    evaluation.write_text(json.dumps(values))
    manifest = json.loads((evaluation.parent / "manifest.json").read_text())
    manifest["sizes"]["evaluation.json"] = evaluation.stat().st_size
    (evaluation.parent / "manifest.json").write_text(json.dumps(manifest))
    assert run(folder, "report") == GATE_FAILED
    assert run(folder, "predict", "x.png") == WRONG_INPUT


# --- engines --------------------------------------------------------------------------------------------------------


def _cut(folder: Path) -> None:
    path = next(folder.glob("*.bin"))
    path.write_bytes(path.read_bytes()[:-10])


def _tamper(folder: Path) -> None:
    path = folder / "engine.xml"
    path.write_bytes(path.read_bytes().replace(b"version", b"verzion", 1))


def _foreign_path(folder: Path) -> None:
    values = json.loads((folder / SIDECAR).read_text())
    values["files"]["../../etc/passwd"] = "0" * 64
    (folder / SIDECAR).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "changed or cut off"),
        (_tamper, "changed or cut off"),
        (lambda folder: (folder / SIDECAR).unlink(), "no sidecar"),
        (lambda folder: (folder / SIDECAR).write_text("{"), "sidecar cannot be read"),
        (lambda folder: (folder / "engine.bin").unlink(), "a file is missing"),
        (_foreign_path, "outside its folder"),
    ],
)
def test_only_engines_with_a_matching_sidecar_are_loaded(chain: Path, tmp_path: Path, damage, message: str) -> None:
    folder = shutil.copytree(chain / "runs" / "small" / "build" / "openvino-fp32", tmp_path / "engine")
    assert read_sidecar(folder).precision == "fp32"
    damage(folder)
    with pytest.raises(Exception, match=message):
        load_engine(folder, 1)


def test_an_engine_that_miscompiles_is_named() -> None:
    task, generator = task_named("classification"), np.random.default_rng(0)
    graph = generator.normal(size=(500, 10)).astype(np.float32)
    wrong = generator.normal(size=(500, 10)).astype(np.float32)
    assert "does not compute its graph" in failure_reason(task, wrong, graph, graph, 50.0, 50.0, 0.99)
    assert "under 99 %" in failure_reason(task, graph, graph, graph, 49.0, 50.0, 0.99)
    assert failure_reason(task, graph, graph, graph, 49.6, 50.0, 0.99) == ""
    # a lossy graph on which two engines round differently: both as far from the reference, so neither is at fault
    noisy = [graph + generator.normal(size=graph.shape).astype(np.float32) for _ in range(2)]
    assert failure_reason(task, noisy[0], noisy[1], graph, 50.0, 50.0, 0.99) == ""
    broken = graph.copy()
    broken[3, 2] = np.nan
    assert "NaN or Inf" in failure_reason(task, broken, graph, graph, 50.0, 50.0, 0.99)


def test_an_engine_that_falls_back_to_floating_point_says_so() -> None:
    assert "none of its 54 layers computes in INT8" in fallback("int8", {"int8": 0, "fp16": 0, "fp32": 54})
    for precision, layers in (("int8", {"int8": 1, "fp32": 9}), ("fp32", {"int8": 0, "fp32": 9}), ("int8", None)):
        assert fallback(precision, layers) == ""


def test_every_stage_reads_only_what_came_before() -> None:
    names = [stage.name for stage in stages.STAGES]
    assert names == [
        "train",
        "export",
        "calibrate",
        "sensitivity",
        "search",
        "qat",
        "quantize",
        "build",
        "evaluate",
        "visualize",
        "benchmark",
        "report",
    ]
    for index, stage in enumerate(stages.STAGES):
        assert set(stage.inputs) <= set(names[:index])
    assert engines.machine()


def test_grey_and_large_photographs_take_the_same_way(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "large.jpg"), np.random.default_rng(0).integers(0, 256, (600, 411, 3), dtype=np.uint8))
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((28, 28), dtype=np.uint8))
    assert run(chain, "predict", str(tmp_path)) == DONE
    assert len(capsys.readouterr().out.splitlines()) == 2
