"""Inputs that are not square RGB through the whole chain: training, every later stage, prediction and a bundle's own run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from chain_run import recipe_values, run, write_recipe

from calib.images import read_split
from calib.preprocess import LUMA, Preprocess, load_batch
from export.onnx_export import NormalisedModel
from pipeline.console.exit_status import DONE, GATE_FAILED
from pipeline.device.cli import run_command

pytestmark = pytest.mark.slow

MODELS: dict[str, dict[str, Any]] = {
    "not square": {"name": "t2t_vit_mini", "image_size": [64, 32]},
    "not square, a CNN": {"name": "resnet26", "image_size": [32, 64], "args": {"layers": [1, 1, 1, 1]}},
    "grey": {"name": "t2t_vit_mini", "image_size": 32, "in_chans": 1},
    "several outputs, one image at a time": {
        "factory": "several_outputs:named_outputs",
        "args": {"num_classes": 3},
        "image_size": 32,
        "output": "scores",
    },
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_whole_chain(kind: str, image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = recipe_values(image_root)
    values["model"] = MODELS[kind]
    values["train"] |= {"epochs": 1, "eval_every": 1, "random_crop_padding": 0.1, "drop_path": 0}
    values["preprocess"] |= {
        name: values["preprocess"][name][: MODELS[kind].get("in_chans", 3)] for name in ("mean", "std")
    }
    values["build"] = values["build"][:2]
    values["gate"] = {"min_relative_top1": 0.0}
    write_recipe(tmp_path / "recipe.yaml", values)
    assert run(tmp_path, "run") in (DONE, GATE_FAILED)

    done = tmp_path / "runs" / "small"
    size = MODELS[kind]["image_size"]
    height, width = size if isinstance(size, list) else (size, size)
    for path in (done / "export").glob("*.onnx"):
        shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_value for dim in shape[1:]] == [height, width, 3], path.name
    notes = json.loads((done / "export" / "manifest.json").read_text())["notes"]
    assert notes["way"] == ("one-image" if "output" in MODELS[kind] else "dynamo"), notes
    report = json.loads((done / "report" / "report.json").read_text())
    rows = {row["name"]: row for row in report["variants"]}
    assert {"onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8"} == set(rows)
    assert rows["onnxruntime-fp32"]["agreement"] == rows["openvino-fp32"]["agreement"] == 100, rows
    for name in ("onnxruntime-int8", "openvino-int8"):
        assert rows[name]["layers"]["int8"] > 0 and rows[name]["agreement"] > 60, rows[name]
    assert rows["openvino-fp32"]["latency_ms"]["p50"] > 0
    channels = json.loads((done / "visualize" / "channels.json").read_text())
    assert len(channels["blocks"]) >= 3, channels["skipped"]
    assert (done / "visualize" / "features.png").stat().st_size > 0

    capsys.readouterr()
    assert run(tmp_path, "predict", str(image_root / "val" / "class_1")) == DONE
    assert capsys.readouterr().out.count("class_") >= 10
    assert run(tmp_path, "bundle", "--images", "12", "--output", str(tmp_path / "bundle")) == DONE
    assert run_command(tmp_path / "bundle", ["run", "--backend", "onnxruntime"]) == DONE


def test_a_grey_level_is_that_of_rec_601(spec: Preprocess, image_root: Path) -> None:
    """The network behind the graph's front sees (luma − mean) / std of the RGB image, in one channel."""
    grey = Preprocess(spec.height, spec.width, 1.0, "bilinear", (0.4,), (0.2,), "grey")
    images = load_batch(list(read_split(image_root, "val").paths[:2]), grey)
    images[..., 0] //= 2  # in colour
    front = NormalisedModel(torch.nn.Identity(), grey)(torch.from_numpy(images)).numpy()
    expected = ((images.astype(np.float64) @ LUMA) / 255 - 0.4) / 0.2
    assert front.shape == (2, 1, spec.height, spec.width)
    difference = np.abs(front[:, 0] - expected)
    assert difference.max() < 1e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
