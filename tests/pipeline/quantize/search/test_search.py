"""The search stage on a small network: what it writes, that it resumes, which images decide, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from calib.calibration import load_calibration_set, make_calibration_set
from calib.errors import InputError
from calib.images import read_split
from calib.precision.policy import decide
from calib.preprocess import Preprocess, load_batch
from export.engines.sidecar import sha256_of
from export.graph.layers import count_precisions, read_layers
from export.quantize.int8 import write_quantized
from pipeline.artifact import Artifact
from pipeline.quantize.graphs import quantize_graphs
from pipeline.quantize.search import stage as search_stage
from pipeline.quantize.search import trials as search_trials
from pipeline.quantize.search.images import draw_search_split
from pipeline.quantize.search.trials import Timing, Trials, timing
from pipeline.recipe import Recipe
from pipeline.report.page.search import read_search, search_section
from pipeline.tasks.task import task_named
from pipeline.tasks.words import CLASSIFICATION, SEGMENTATION
from pipeline.training.checkpoint import Checkpoint, write_checkpoint

pytestmark = pytest.mark.slow

CLASSES = ("class_0", "class_1", "class_2")
CLASSES_OF_IMAGES = task_named("classification")


def make_recipe(root: Path, **search: Any) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "data": {"name": "three classes", "root": str(root)},
        "model": {"name": "t2t_vit_mini", "image_size": 32},
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.286] * 3, "std": [0.353] * 3},
        "quantize": {"precisions": ["fp32", "auto"]}, "build": [{"backend": "onnxruntime", "precisions": ["auto"]}],
        "evaluate": {"batch_size": 10}, "benchmark": {"warmup": 1, "warmup_ms": 0, "rounds": 3, "calls": 3, "threads": 1},
        "gate": {"min_relative_top1": 0.5},
        "search": {"backend": "onnxruntime", "images": 24, "max_drop_pp": 10} | search,
    })  # fmt: skip


@pytest.fixture(scope="module")
def inputs(
    small_onnx: Path, spec: Preprocess, image_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    """What the stages before leave; the sensitivity is made up."""
    folder = tmp_path_factory.mktemp("inputs")
    write_checkpoint(Checkpoint("t2t_vit_mini", 32, CLASSES, spec.to_dict(), {}), folder / "checkpoint.pt")
    make_calibration_set(read_split(image_root, "train"), spec, 30, 0, folder / "calibration.npz")
    shutil.copy(small_onnx / "fp32.onnx", folder)
    layers = [of.layer for of in decide(read_layers(onnx.load(folder / "fp32.onnx")), "full")]
    rows = [
        {"node": layer.name, "group": f"{layer.module.split('.')[0]} {layer.role}", "kl": 0.01 * (index % 5)}
        for index, layer in enumerate(layers)
    ]
    (folder / "sensitivity.json").write_text(json.dumps({"images": 8, "layers": rows, "groups": []}))
    made = Artifact(folder, "", {path.name: sha256_of(path) for path in folder.iterdir()}, {}, {}, 0.0)
    return dict.fromkeys(("train", "export", "calibrate", "sensitivity"), made)


@pytest.fixture
def fast_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each product in INT8 saves one percent: what this machine's clock says of so small a network is noise."""
    pretend_fast_int8(monkeypatch)


def pretend_fast_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `fast_int8`."""

    def pretend(trials: Trials, runner: object, fp32: object) -> Timing:
        path = trials._folder / "mix.onnx"
        saved = 0.01 * count_precisions(onnx.load(path))["int8"] if path.exists() and runner is not fp32 else 0.0
        return Timing(10 * (1 - saved), 1 - saved, 0.001)

    monkeypatch.setattr(Trials, "_time", pretend)


@pytest.fixture(scope="module")
def finished(image_root: Path, inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A search that found INT8 layers."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        pretend_fast_int8(patch)
        search(make_recipe(image_root), inputs, folder)
    return Artifact(folder, "", {"search.json": ""}, {}, {}, 0.0)


def search(recipe: Recipe, inputs: dict[str, Artifact], folder: Path) -> dict[str, Any]:
    """Run the stage; returns search.json."""
    folder.mkdir(exist_ok=True)
    search_stage.run(recipe, inputs, folder)
    return json.loads((folder / "search.json").read_text())


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_from_end_to_end_with_real_engines_and_clocks(
    backend: str, image_root: Path, inputs: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(image_root, backend=backend)
    found = search(recipe, inputs, tmp_path)
    rows = found["path"]
    assert rows[0]["label"] == "FP32" and rows[0]["nodes"] == [] and rows[0]["drop_pp"] == 0 and not rows[0]["refused"]
    assert 3 < len(rows) <= 25 and len({tuple(row["nodes"]) for row in rows}) == len(rows)
    assert sorted(of["node"] for of in found["int8"]) == found["chosen"]["nodes"]
    assert max(len(row["nodes"]) for row in rows) == found["candidates"] > 10
    assert all(row["latency_ms"] > 0 and row["ratio"] > 0 and row["noise"] >= 0.005 for row in rows if row["ratio"])
    assert any(row["engine_int8"] for row in rows), "no engine computed in INT8"
    assert found["chosen"]["refused"] == "" and (found["chosen"]["ratio"] < 1 or not found["int8"])
    assert "next: t2t-edge quantize" in capsys.readouterr().out
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.usefixtures("fast_int8")
def test_the_quantize_stage_makes_the_graph_that_was_measured(
    backend: str, image_root: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """In the dialect of the backend that measured it: on OpenVINO the soft splits are windows, and may be INT8."""
    recipe = make_recipe(image_root, backend=backend)
    search(recipe, inputs, tmp_path / "search")
    finished = Artifact(tmp_path / "search", "", {"search.json": ""}, {}, {}, 0.0)
    found = read_search(finished)
    tried = {node for row in found["path"] for node in row["nodes"]}
    assert any("windows" in node for node in tried) is (backend == "openvino")
    assert found["int8"] and found["chosen"]["ratio"] < 0.95 and "the speed of FP32" in found["conclusion"]
    calibration = load_calibration_set(inputs["calibrate"].path("calibration.npz"), recipe.preprocess_spec())
    graph = quantize_graphs("auto", recipe, inputs | {"search": finished}, calibration)[f"auto-{backend}"]
    written = write_quantized(graph.proto, graph.found, weight_bits=graph.weight_bits)
    assert count_precisions(written)["int8"] == found["chosen"]["products"] > 0
    decided = {of.layer.name: (list(of.inputs), of.output) for of in graph.found.decisions if of.int8}
    assert decided == {of["node"]: (of["inputs"], of["output"]) for of in found["int8"]}


def count_rows(monkeypatch: pytest.MonkeyPatch, stop_after: int) -> list[frozenset[str]]:
    """Note each mix that is really measured; Ctrl-C in the one after `stop_after`."""
    measured: list[frozenset[str]] = []
    row: Callable[..., Any] = Trials.row

    def counted(trials: Trials, names: frozenset[str], label: str) -> Any:
        if len(measured) == stop_after:
            raise KeyboardInterrupt
        measured.append(names)
        return row(trials, names, label)

    monkeypatch.setattr(Trials, "row", counted)
    return measured


def test_an_interrupted_search_goes_on(
    image_root: Path, inputs: dict[str, Artifact], finished: Artifact, tmp_path: Path, fast_int8: None,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipe, whole = make_recipe(image_root), read_search(finished)
    with monkeypatch.context() as patch:
        before = count_rows(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            search(recipe, inputs, tmp_path / "cut")
    with (tmp_path / "cut" / "path.jsonl").open("a") as file:
        file.write('{"label": "being writ')  # and the power failed
    with monkeypatch.context() as patch:
        after = count_rows(patch, 99)
        resumed = search(recipe, inputs, tmp_path / "cut")
    assert not set(before) & set(after) and len(before) + len(after) + 1 == len(whole["path"])
    assert resumed == whole and "reused from an interrupted search: 4 trials" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        after = count_rows(patch, 99)
        quantize = recipe.quantize.model_copy(update={"precisions": ("fp32", "int8", "auto"), "policy": "full"})
        more = recipe.model_copy(update={"quantize": quantize, "build": (*recipe.build, recipe.build[0])})
        assert search(more, inputs, tmp_path / "cut") == whole and not after, "what it does not read changes nothing"
    with monkeypatch.context() as patch:  # other settings: nothing is kept
        after = count_rows(patch, 99)
        search(make_recipe(image_root, max_drop_pp=11), inputs, tmp_path / "cut")
    assert len(after) + 1 == len(whole["path"])


def test_a_latency_budget(image_root: Path, inputs: dict[str, Artifact], tmp_path: Path, fast_int8: None) -> None:
    found = search(make_recipe(image_root, budget_ms=9.5), inputs, tmp_path / "some")
    assert found["chosen"]["latency_ms"] <= 9.5 and found["int8"]
    assert search(make_recipe(image_root, budget_ms=10.5), inputs, tmp_path / "fp32")["int8"] == []
    with pytest.raises(InputError, match=r"no mix .* is within search.budget_ms[\s\S]*the fastest of"):
        search(make_recipe(image_root, budget_ms=1), inputs, tmp_path / "none")


def test_layers_that_are_excluded_or_left_out_are_no_candidates(image_root: Path, inputs: dict[str, Artifact]) -> None:
    layers = read_layers(onnx.load(inputs["export"].path("fp32.onnx")))

    def candidates(**part: Any) -> set[str]:
        quantize = make_recipe(image_root).quantize.model_copy(update=part)
        return {of.layer.name for of in search_stage.candidate_decisions(layers, quantize) if of.int8}

    usual = candidates()
    kernel = {layer.name for layer in layers if layer.kernel}
    roles = {layer.role for layer in layers if layer.name in usual}
    assert kernel and not usual & kernel and "residual" in roles
    (fc1,) = [layer for layer in layers if layer.module == "blocks.0.mlp.fc1" and layer.name in usual]
    assert usual - candidates(exclude=(r"blocks\.0\.mlp\.fc1",)) == {fc1.name}
    first = next(layer for layer in layers if layer.kernel and layer.weight_shape and layer.operator == "MatMul")
    assert candidates(include=(first.name,)) - usual == {first.name}


def test_the_split_shares_no_image_with_other_sets(image_root: Path, spec: Preprocess, tmp_path: Path) -> None:
    root = shutil.copytree(image_root, tmp_path / "images")
    calibration = make_calibration_set(read_split(root, "train"), spec, 30, 0, tmp_path / "calibration.npz")
    first = calibration.names[0]
    copied = root / "train" / "class_0" / "copy.png"  # of a calibration image
    shutil.copyfile(root / "train" / first, copied)
    leaked = root / "train" / "class_1" / "leak.png"  # an evaluation image, compressed once more
    image = cv2.imread(str(root / "val" / "class_1" / "003.png"))
    cv2.imwrite(str(leaked.with_suffix(".jpg")), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    train, evaluation = read_split(root, "train"), read_split(root, "val")
    split = draw_search_split(CLASSES_OF_IMAGES, train, evaluation, calibration, spec, 27, 0)
    names = {path.relative_to(root / "train").as_posix() for path in split.paths}
    assert len(names) == 27 and not names & set(calibration.names)
    assert copied not in split.paths and leaked.with_suffix(".jpg") not in split.paths
    ours = {image.tobytes() for image in split.images}
    assert len(ours) == 27 and not ours & {image.tobytes() for image in calibration.images}
    assert not ours & {image.tobytes() for image in load_batch(list(evaluation.paths), spec)}
    assert np.bincount(split.labels).tolist() == [9, 9, 9]
    assert (
        draw_search_split(CLASSES_OF_IMAGES, train, evaluation, calibration, spec, 27, 0).fingerprint
        == split.fingerprint
    )
    assert (
        draw_search_split(CLASSES_OF_IMAGES, train, evaluation, calibration, spec, 27, 1).fingerprint
        != split.fingerprint
    )
    with pytest.raises(InputError, match=r"too few training images[\s\S]*next: set search.images: [1-9]"):
        draw_search_split(CLASSES_OF_IMAGES, train, evaluation, calibration, spec, 31, 0)
    everything = make_calibration_set(train, spec, len(train), 0, tmp_path / "everything.npz")
    with pytest.raises(
        InputError, match=rf"next: in the recipe lower calibrate\.images, or add images to {train.root}"
    ):
        draw_search_split(
            CLASSES_OF_IMAGES, train, evaluation, everything, spec, 16, 0
        )  # search.images: 0 is no recipe


def test_a_backend_that_is_not_here_is_refused_with_those_that_are(
    image_root: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"got: tensorrt: [\s\S]*allowed: onnxruntime, openvino"):
        search(make_recipe(image_root, backend="tensorrt"), inputs, tmp_path)


def test_too_few_images_for_the_gate_are_refused(image_root: Path, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    recipe = make_recipe(image_root).model_copy(update={"gate": Recipe.model_fields["gate"].default})
    with pytest.raises(InputError, match=r"too small to be sure of the gate[\s\S]*at least \d+"):
        search(recipe, inputs, tmp_path)


def test_a_hopeless_graph_is_not_built(
    image_root: Path, inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    monkeypatch.setattr(search_trials, "hopeless", lambda found, limits: "drop at least 90 points")
    build = search_trials.build_engine
    monkeypatch.setattr(
        search_trials, "build_engine", lambda spec, *more: built.append(spec.name) or build(spec, *more)
    )
    found = search(make_recipe(image_root, backend="openvino"), inputs, tmp_path)
    assert built == ["openvino-fp32"] and found["int8"] == [] and "FP32 is the fastest" in found["conclusion"]
    assert all("already in ONNX Runtime" in row["refused"] and row["ratio"] is None for row in found["path"][1:])


def test_timing_is_the_median_of_paired_rounds() -> None:
    fp32 = [2.0] * 10 + [4.0] * 10  # the machine becomes slower, for both
    found = timing([1.0] * 10 + [2.0] * 10, fp32, rounds=4)
    assert (found.ratio, found.noise) == (0.5, 0.0)
    shaky = np.random.default_rng(0).normal(1, 0.05, 400).tolist()
    found = timing(shaky, [2.0] * 400, rounds=20)
    assert found.ratio == pytest.approx(0.5, abs=0.01) and 0 < found.noise < 0.02


def test_a_noisy_clock_is_told(
    image_root: Path, inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trials, "_time", lambda *_: Timing(1.0, 0.9, 0.02))  # FP32 10 % faster than itself
    found = search(make_recipe(image_root), inputs, tmp_path)
    assert found["int8"] == [] and "FP32 measured twice differs by 10 %" in found["conclusion"]


def test_the_report_shows_the_path(finished: Artifact) -> None:
    found = read_search(finished)
    section = search_section(found, CLASSIFICATION)
    assert section is not None
    html = section.body
    assert html.count("<tr") == len(found["path"]) + 1 and html.count("chosen, within the limits") == 1
    assert "24 training images decided" in html and search_section(None, CLASSIFICATION) is None
    found["path"][0]["label"] = "<script>"
    again = search_section(found, CLASSIFICATION)
    assert again is not None and "<script>" not in again.body
    of_maps = json.loads(json.dumps(found).replace("top1", "miou"))
    other = search_section(of_maps, SEGMENTATION)
    assert other is not None and "<th scope=col>mIoU %</th>" in other.body and "of FP32&#39;s mIoU) held" in other.body
