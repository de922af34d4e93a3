"""A network in an ONNX file through the whole chain: no training, no PyTorch network, its own logits as the reference."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from brought_files import write_brought, write_edited
from chain_run import recipe_values, run, write_recipe

from pipeline.console.exit_status import DONE, GATE_FAILED, WRONG_INPUT
from pipeline.device.cli import run_command

pytestmark = pytest.mark.slow


def values_of(image_root: Path, network: Path, **model: Any) -> dict[str, Any]:
    values = recipe_values(image_root)
    values["model"] = {"onnx": str(network), **model}  # its size is the file's
    del values["train"]
    values["build"], values["gate"] = values["build"][:2], {"min_relative_top1": 0.0}
    return values


def check_run(folder: Path) -> dict[str, Any]:
    """The report's rows, once they are what a run of a brought network must have."""
    done = folder / "runs" / "small"
    report = json.loads((done / "report" / "report.json").read_text())
    rows = {row["name"]: row for row in report["variants"]}
    assert rows["onnxruntime-fp32"]["agreement"] == rows["openvino-fp32"]["agreement"] == 100, rows
    for name in ("onnxruntime-int8", "openvino-int8"):
        assert rows[name]["layers"]["int8"] > 0 and rows[name]["agreement"] > 80, rows[name]
    evaluation = json.loads((done / "evaluate" / "evaluation.json").read_text())
    assert evaluation["reference"]["name"] == "brought.onnx FP32"
    notes = json.loads((done / "export" / "manifest.json").read_text())["notes"]
    assert notes["logit_difference_max"] < 1e-4 and notes["agreement"] == 100
    return rows


@pytest.mark.parametrize("batch", [None, 4], ids=["any batch", "a fixed batch"])
def test_the_whole_chain(
    batch: int | None, image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = write_brought(tmp_path / "brought.onnx", batch=batch)
    write_recipe(tmp_path / "recipe.yaml", values_of(image_root, network))
    assert run(tmp_path, "run") in (DONE, GATE_FAILED)
    printed = capsys.readouterr().out
    assert "nothing to train" in printed and ("set benchmark.batch_sizes: [4]" in printed) == (batch is not None)
    rows = check_run(tmp_path)
    assert set(rows["openvino-fp32"]["images_per_s"]) == {"1", "8"}
    exported = onnx.load(tmp_path / "runs" / "small" / "export" / "fp32.onnx")
    taken, given = (value.type.tensor_type.shape.dim for value in (exported.graph.input[0], exported.graph.output[0]))
    assert (taken[0].dim_value or None) == batch and given[1].dim_value == 3
    channels = json.loads((tmp_path / "runs" / "small" / "visualize" / "channels.json").read_text())
    names = [block["name"] for block in channels["blocks"]]
    assert names == ["stem", "blocks.0", "blocks.1", "blocks.2"], channels["skipped"]

    assert run(tmp_path, "predict", str(image_root / "val" / "class_1")) == DONE
    assert capsys.readouterr().out.count("class_") >= 10
    assert run(tmp_path, "bundle", "--images", "12", "--output", str(tmp_path / "bundle")) == DONE
    assert run_command(tmp_path / "bundle", ["run", "--backend", "onnxruntime"]) == DONE

    # the file's content is what counts
    capsys.readouterr()
    moved = network.rename(tmp_path / "elsewhere.onnx")
    write_recipe(tmp_path / "recipe.yaml", values_of(image_root, moved))
    assert run(tmp_path, "train") == DONE
    assert "train: unchanged" in capsys.readouterr().out
    write_brought(moved, batch=batch, seed=4)
    assert run(tmp_path, "train") == DONE
    assert "model.onnx has changed" in capsys.readouterr().out


def test_wrong_files_are_named_before_anything_runs(
    image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(tmp_path / "recipe.yaml", values_of(image_root, tmp_path / "gone.onnx"))
    assert run(tmp_path, "train") == WRONG_INPUT
    assert "no such ONNX file" in capsys.readouterr().err
    network = write_brought(tmp_path / "plain.onnx")
    two = write_edited(network, tmp_path / "brought.onnx", second_output=True)
    write_recipe(tmp_path / "recipe.yaml", values_of(image_root, two))
    assert run(tmp_path, "train") == WRONG_INPUT
    printed = capsys.readouterr().err
    assert "has several outputs" in printed and "output: " in printed and "Traceback" not in printed
    assert not (tmp_path / "runs" / "small" / "train").exists()
    write_recipe(tmp_path / "recipe.yaml", values_of(image_root, two, output="scores"))
    assert run(tmp_path, "export") == DONE
    printed = capsys.readouterr().out
    assert "ONNX against brought.onnx FP32: SNR" in printed and "brought.onnx FP32: top-1 " in printed
