"""INT8 of a network that classifies pixels: engines, methods, sensitivity, the search for auto, quantization-aware training."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from scenes_run import recipe_values, scenes_recipe, write_scenes

from calib.calibration import load_calibration_set
from calib.errors import InputError
from calib.precision.search import search_fastest
from calib.precision.smoothing import logits_distance
from export.engines import onnxruntime_backend
from export.graph.layers import count_precisions
from export.onnx_export import INPUT, OUTPUT
from export.quantize.int8 import write_quantized
from pipeline.artifact import Artifact, read_artifact
from pipeline.cli import main
from pipeline.quantize.graphs import quantize_graphs
from pipeline.quantize.search import sensitivity_stage
from pipeline.quantize.search import stage as search_stage
from pipeline.quantize.search.trials import Timing, Trials
from pipeline.report.page.search import read_search, search_section
from pipeline.tasks.words import SEGMENTATION

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Made:
    """A run up to `evaluate`, and what it printed."""

    root: Path
    runs: Path
    printed: str

    def stage(self, name: str) -> Artifact:
        artifact = read_artifact(self.runs / "small" / name)
        assert artifact is not None
        return artifact

    def inputs(self, *names: str) -> dict[str, Artifact]:
        return {name: self.stage(name) for name in names}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "scenes")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(folder / "scenes")))
    with redirect_stdout(io.StringIO()) as printed:
        status = main(["evaluate", "--recipe", str(recipe), "--runs", str(folder / "runs"), "--run", "small"])
    assert status == 0, printed.getvalue()
    return Made(folder / "scenes", folder / "runs", printed.getvalue())


def test_both_cpu_engines_compute_it_in_int8(made: Made) -> None:
    evaluation = json.loads(made.stage("evaluate").path("evaluation.json").read_text())
    rows = {(row["backend"], row["precision"]): row for row in evaluation["variants"]}
    assert len(rows) == 6 and {row["status"] for row in rows.values()} == {"pass"}
    for (backend, precision), row in rows.items():
        layers = row["layers"]
        if precision == "fp32":
            assert layers["int8"] == 0 and row["agreement"] > 99.9, (backend, row)
        else:  # what feeds the tokens' products, and those themselves, stays in FP32 (docs/quantization.md)
            assert layers["int8"] > 2 * layers["fp32"] and row["agreement"] > 97, (backend, row)


def test_the_trained_network_is_quantized_where_the_graph_is(made: Made) -> None:
    """Every layer has its place, though the graph has no BatchNorm any more; what was written computes what was trained."""
    notes = made.stage("qat").notes
    assert notes["policy_layers"] == notes["trained_layers"] > 40 and not notes["quantized_after_training_only"]
    assert notes["graph_agreement"] > 98 and notes["losses"][0] > 0
    assert notes["teacher_miou"] == pytest.approx(notes["before_miou"], abs=2)
    assert "same class on" in made.printed and "% of the pixels of 32 images" in made.printed


@pytest.mark.parametrize("quantize", [{"method": "smoothquant", "smooth_alphas": [0.5]}, {"method": "percentile"},
                                      {"method": "entropy"}, {"policy": "full"}, {"policy": "+residual"}])  # fmt: skip
def test_methods_and_policies(made: Made, quantize: dict[str, Any], tmp_path: Path) -> None:
    recipe = scenes_recipe(made.root, quantize=recipe_values(made.root)["quantize"] | quantize)
    calibration = load_calibration_set(made.stage("calibrate").path("calibration.npz"), recipe.preprocess_spec())
    graphs = quantize_graphs("int8", recipe, made.inputs("train", "export", "calibrate"), calibration)
    assert len(graphs) >= 2
    images = calibration.first(4)
    with onnxruntime_backend.load(made.stage("export").path("fp32.onnx"), 1) as runner:
        reference = runner.infer({INPUT: images})[OUTPUT]
    for name, graph in graphs.items():
        written = write_quantized(graph.proto, graph.found, weight_bits=graph.weight_bits)
        onnx.save(written, tmp_path / "int8.onnx")
        with onnxruntime_backend.load(tmp_path / "int8.onnx", 1, literal=True) as runner:
            found = logits_distance(reference, runner.infer({INPUT: images})[OUTPUT])
        assert found.snr_db > 18, (name, found)


@pytest.fixture(scope="module")
def sensitivity(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("sensitivity") / ".sensitivity.partial"
    folder.mkdir()
    sensitivity_stage.run(scenes_recipe(made.root), made.inputs("train", "export", "calibrate"), folder)
    files = {path.name: path.name for path in folder.iterdir()}
    return Artifact(folder, "", files, {}, {}, 0.0)


def test_every_layer_has_its_sensitivity(sensitivity: Artifact) -> None:
    study = json.loads(sensitivity.path("sensitivity.json").read_text())
    assert study["images"] == 4 and len(study["layers"]) > 40
    assert all(row["kl"] >= 0 and row["agreement"] > 90 for row in study["layers"])
    most, *_, least = sorted(study["groups"], key=lambda row: -row["kl"])
    assert most["kl"] > 1000 * least["kl"] and most["snr_db"] < least["snr_db"]


def search(made: Made, sensitivity: Artifact, folder: Path, **part: Any) -> dict[str, Any]:
    """Run the stage; returns search.json."""
    folder.mkdir(exist_ok=True)
    recipe = scenes_recipe(made.root, search=recipe_values(made.root)["search"] | part)
    inputs = made.inputs("train", "export", "calibrate") | {"sensitivity": sensitivity}
    search_stage.run(recipe, inputs, folder)
    return json.loads((folder / "search.json").read_text())


@pytest.fixture
def fast_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each product in INT8 saves one percent: no clock."""

    def pretend(trials: Trials, runner: object, fp32: object) -> Timing:
        path = trials._folder / "mix.onnx"
        saved = 0.01 * count_precisions(onnx.load(path))["int8"] if path.exists() and runner is not fp32 else 0.0
        return Timing(10 * (1 - saved), 1 - saved, 0.001)

    monkeypatch.setattr(Trials, "_time", pretend)
    monkeypatch.setattr(
        search_stage, "search_fastest", partial(search_fastest, most=8)
    )  # engines take seconds to build


@pytest.mark.usefixtures("fast_int8")
def test_the_search_for_auto_is_by_miou(made: Made, sensitivity: Artifact, tmp_path: Path) -> None:
    with redirect_stdout(io.StringIO()) as printed:
        found = search(made, sensitivity, tmp_path / "search")
    assert found["min_relative_miou"] == 0.5 and "min_relative_top1" not in found and found["images"] == 40
    assert found["int8"] and found["chosen"]["ratio"] < 0.8 and not found["chosen"]["refused"]
    assert (
        "points less mIoU than FP32" in found["conclusion"]
        and "% of the pixels of the search images" in found["conclusion"]
    )
    first, *others = found["path"]
    assert (first["drop_pp"], first["highest_drop_pp"], first["agreement"]) == (0, 0, 100)
    assert all(row["drop_pp"] <= row["highest_drop_pp"] and 90 < row["agreement"] < 100 for row in others)
    assert all(row["miou"] == pytest.approx(first["miou"] - row["drop_pp"]) for row in others)
    assert "   mIoU " in printed.getvalue() and "top-1" not in printed.getvalue()
    section = search_section(
        read_search(Artifact(tmp_path / "search", "", {"search.json": ""}, {}, {}, 0.0)), SEGMENTATION
    )
    assert section is not None and "of FP32&#39;s mIoU) held" in section.body
    rows = (tmp_path / "search" / "path.jsonl").read_text().splitlines()
    (tmp_path / "search" / "path.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    with redirect_stdout(io.StringIO()) as printed:
        assert search(made, sensitivity, tmp_path / "search") == found
    assert "reused from an interrupted search: 7 trials" in printed.getvalue()


def test_too_few_images_for_the_search_are_refused(made: Made, sensitivity: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"too small to be sure of the gate[\s\S]*at least 32: [\s\S]*FP32's mIoU"):
        search(made, sensitivity, tmp_path / "search", images=31)


def test_masks_that_were_corrected_start_the_search_anew(made: Made, sensitivity: Artifact) -> None:
    recipe = scenes_recipe(made.root)
    inputs = made.inputs("train", "export", "calibrate") | {"sensitivity": sensitivity}
    material = search_stage._gather(recipe, inputs)
    before = search_stage._settings(recipe, inputs, material)
    assert material.fp32.dtype == np.uint8 and material.fp32.shape == material.split.labels.shape == (40, 64, 64)
    material.split.labels[0, 0, 0] ^= 1
    assert search_stage._settings(recipe, inputs, material) != before
