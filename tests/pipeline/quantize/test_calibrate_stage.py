"""The stage: what it leaves, and that it asks the exported network for the colour order."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib.calibration import load_calibration_set
from calib.errors import InputError
from calib.images import read_split
from calib.preprocess import load_batch
from pipeline.artifact import Artifact
from pipeline.quantize import calibrate_stage
from pipeline.recipe import Recipe
from pipeline.run.work import work_place
from pipeline.training.checkpoint import Checkpoint, write_checkpoint

CLASSES = ("blue", "green", "red")


def write_graph(path: Path) -> None:
    """A graph that answers with the mean of the class's channel."""
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "order"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        numpy_helper.from_array(np.eye(3, dtype=np.float32)[::-1] / 10, "order"),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    graph = helper.make_graph(nodes, "colours", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured images, a checkpoint that names their classes, and the graph; `images.npz` has them blue first."""
    folder = tmp_path_factory.mktemp("stage")
    for split, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(CLASSES):
            (folder / "images" / split / name).mkdir(parents=True)
            for index in range(count):
                seed = label * 100 + index + (50 if split == "val" else 0)
                image = np.random.default_rng(seed).integers(0, 150, (32, 32, 3), dtype=np.uint8)
                image[..., label] += 100  # OpenCV writes blue, green, red: the order of the classes
                cv2.imwrite(str(folder / "images" / split / name / f"{index}.png"), image)
    (folder / "train").mkdir()
    (folder / "export").mkdir()
    write_graph(folder / "export" / "fp32.onnx")
    spec = recipe(folder).preprocess_spec()
    write_checkpoint(Checkpoint("t2t_vit_mini", 32, CLASSES, spec.to_dict(), {}), folder / "train" / "checkpoint.pt")
    train = read_split(folder / "images", "train")
    np.savez(folder / "images.npz", images=load_batch(list(train.paths), spec)[..., ::-1], labels=train.labels)
    return folder


def recipe(folder: Path, **calibrate: object) -> Recipe:
    return Recipe.model_validate(
        {
            "schema": 1, "data": {"name": "coloured", "root": folder / "images"}, "build": [],
            "model": {"name": "t2t_vit_mini", "image_size": 32}, "calibrate": {"images": 30} | calibrate,
        }
    )  # fmt: skip


def inputs(folder: Path, *names: str) -> dict[str, Artifact]:
    files = {"train": "checkpoint.pt", "export": "fp32.onnx"}
    return {name: Artifact(folder / name, "", {files[name]: ""}, {}, {}, 0.0) for name in names}


def test_it_leaves_the_set_and_the_audit(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = calibrate_stage.run(recipe(workplace), inputs(workplace, "train", "export"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"calibration.npz", "audit.json"}
    audit = json.loads((tmp_path / "audit.json").read_text())
    assert audit["accepted"] and audit["per_class"] == {"blue": 10, "green": 10, "red": 10}
    assert audit["colour_order"]["network"]["verdict"] == "right"
    assert notes["images"] == 30 and notes["per_class"] == [10, 10] and notes["fingerprint"] == audit["fingerprint"]
    assert len(load_calibration_set(tmp_path / "calibration.npz", recipe(workplace).preprocess_spec())) == 30
    assert "order right by the network: top-1 100.0 % as given, 33.3 %" in capsys.readouterr().out


def test_it_says_that_it_takes_fewer_than_the_default(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default = recipe(workplace, images=None, source=workplace / "images" / "train")
    (workplace / "images" / "train" / "__MACOSX").mkdir()
    (workplace / "images" / "train" / "__MACOSX" / "._1.png").write_bytes(b"no image")
    try:
        notes = calibrate_stage.run(default, inputs(workplace, "train"), tmp_path)
    finally:
        shutil.rmtree(workplace / "images" / "train" / "__MACOSX")
    shown = capsys.readouterr().out
    assert (
        f"takes all {notes['images']} images there are: calibrate.images is not in the recipe, and its default is 512"
        in shown
    )
    assert f"left out (made by the system or a notebook): {workplace}/images/train/__MACOSX/" in shown
    calibrate_stage.run(recipe(workplace), inputs(workplace, "train"), tmp_path)
    shown = capsys.readouterr().out
    assert "takes all" not in shown and "left out" not in shown


def test_the_default_has_another_key_than_its_number(workplace: Path) -> None:
    """512 in a recipe must be there; without a number what is there is taken."""
    parts = [recipe(workplace, images=images).model_dump(mode="json")["calibrate"] for images in (None, 512)]
    assert parts[0] != parts[1]


def test_it_needs_no_export(workplace: Path, tmp_path: Path) -> None:
    calibrate_stage.run(recipe(workplace), inputs(workplace, "train"), tmp_path)
    assert json.loads((tmp_path / "audit.json").read_text())["colour_order"]["network"] is None


def test_an_unfit_set_is_refused_after_the_audit_is_saved(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = recipe(workplace, source=workplace / "images.npz")
    with pytest.raises(InputError, match=r"colour order is wrong[\s\S]*33\.3 % as given, 100\.0 % with red and blue"):
        calibrate_stage.run(wrong, inputs(workplace, "train", "export"), tmp_path)
    audit = json.loads((tmp_path / "audit.json").read_text())
    assert not audit["accepted"] and "colour order" in audit["refused"][0]["what"]
    shown = capsys.readouterr().out
    assert "refused    the colour order is wrong" in shown and f"the audit is in {tmp_path / 'audit.json'}" in shown
    page = (Path(__file__).parents[3] / "docs" / "calibration.md").read_text(encoding="utf-8")
    assert f"`{work_place(Path('runs/<run>/calibrate'))}/audit.json`" in page
    calibrate_stage.run(wrong, inputs(workplace, "train"), tmp_path)  # statistics alone do not refuse
