"""A segmentation through the whole chain: its files, its report, its gate, what is refused, and a network of a user's own."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from segmentation_run import SCENE_CLASSES, recipe_values, write_shapes

from calib.errors import InputError
from calib.masks import IGNORED, load_masks, read_masked_split
from calib.preprocess import Preprocess
from export.onnx_export import read_metadata
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.measure.evaluate_stage import failure_reason
from pipeline.tasks.pixels import NO_CLASS, mean_iou, overlap
from pipeline.tasks.task import task_named

OWN_NETWORK = '''
import torch
from torch import nn

class Quarter(nn.Module):
    """Logits of a quarter of the image's sides, brought to its size, or left as they are."""

    def __init__(self, classes=3, whole=True):
        super().__init__()
        self.body, self.whole = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, classes, 1)), whole

    def forward(self, images):
        logits = self.body(images)
        if not self.whole:
            return logits
        return nn.functional.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
'''


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_pixels.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))


def report_of(run: Path) -> dict:
    return json.loads((run / "report" / "report.json").read_text())


def test_what_is_kept_is_what_the_numbers_are_of(segmentation_run: Path) -> None:
    """mIoU of the report is that of the stored maps against masks that are read again."""
    run = segmentation_run / "runs" / "shapes"
    spec, classes = read_metadata(onnx.load(run / "export" / "fp32.onnx"))
    assert tuple(classes) == SCENE_CLASSES
    split = read_masked_split(segmentation_run / "images", "val")
    masks = load_masks(split, slice(None), spec)
    with np.load(run / "export" / "reference.npz") as stored, np.load(run / "evaluate" / "maps.npz") as maps:
        assert set(stored.files) == {"maps", "labels"} and (stored["labels"] == masks).all()
        assert stored["maps"].dtype == np.uint8 and stored["maps"].shape == (12, spec.height, spec.width)
        engine = maps["onnxruntime-int8"]
        assert engine.dtype == np.uint8 and "graph:int8-onnxruntime" in maps.files
    report = report_of(run)
    row = next(variant for variant in report["variants"] if variant["name"] == "onnxruntime-int8")
    assert row["miou"] == pytest.approx(mean_iou(overlap(engine, masks)), abs=1e-9)
    assert report["task"] == "segmentation" and report["gate"] == {"min_relative_miou": 0.5}
    assert "top1" not in json.dumps(report["variants"])


def test_classes_are_learnt(segmentation_run: Path) -> None:
    """One epoch on 24 images finds more than the background, whose IoU alone would be a third of the mean."""
    notes = json.loads((segmentation_run / "runs" / "shapes" / "train" / "manifest.json").read_text())["notes"]
    header = (segmentation_run / "runs" / "shapes" / "train" / "metrics.csv").read_text().splitlines()[0]
    assert 0 < notes["miou"] <= 100 and "val_miou" in header and "top1" not in header


def test_pages_say_miou(segmentation_run: Path) -> None:
    folder = segmentation_run / "runs" / "shapes" / "report"
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "mIoU" in text and "top-1" not in text.lower(), name


def test_a_changed_mask_is_evaluated_again(
    segmentation_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "images")
    values = recipe_values(tmp_path / "images") | {"quantize": {"precisions": ["fp32", "int8"]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    from chain_run import copy_run

    copy_run(segmentation_run / "runs", tmp_path / "runs")
    command = [
        "run",
        "--recipe",
        str(tmp_path / "recipe.yaml"),
        "--runs",
        str(tmp_path / "runs"),
        "--run",
        "shapes",
        "--dry-run",
    ]
    assert main(command) == DONE
    assert "unchanged" in capsys.readouterr().out
    mask = tmp_path / "images" / "val" / "masks" / "03.png"
    mask.write_bytes((tmp_path / "images" / "val" / "masks" / "04.png").read_bytes())
    assert main(command) == DONE
    said = capsys.readouterr().out
    assert "images: val has changed (1 of 24 changed)" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"mixup": 0.8}}, ("the training of segmentation has no mixup", "train.mixup: 0")),
        ({"train": {"auto_augment": "rand-m9-mstd0.5-inc1"}}, ("has no auto_augment", "train.auto_augment: null")),
        (
            {"model": {"name": "resnet18", "image_size": 32}},
            ("does not give 3 logits, one for each class of each pixel", "(1, 3, 32, 32)"),
        ),
        ({"model": {"name": "fpn_mini", "image_size": 40}}, ("images of 40 × 40 px do not fit", "of 32")),
        (
            {"model": {"factory": "own_pixels:Quarter", "args": {"whole": False}, "image_size": 32}},
            ("(1, 3, 8, 8)", "torch.nn.functional.interpolate(logits, size=images.shape[2:]"),
        ),
        ({"model": {"factory": "own_pixels:Quarter", "args": {"classes": 5}, "image_size": 32}}, ("set its number of classes",)),
        ({"data": {"source": "webdataset", "origin": "x"}}, ("masks are read from folders",)),
        ({"data": {"task": "classification"}}, ("gate.min_relative_miou is not the gate of classification",)),
        ({"gate": {"min_relative_top1": 0.9}}, ("gate.min_relative_top1 is not the gate of segmentation", "min_relative_miou")),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_it_runs(
    segmentation_run: Path,
    tmp_path: Path,
    own_network: None,
    capsys: pytest.CaptureFixture[str],
    change: dict,
    said: tuple[str, ...],
) -> None:
    values = recipe_values(segmentation_run / "images")
    for part, keys in change.items():
        values[part] = keys if part == "model" else values[part] | keys
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    status = main(["run", "--recipe", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--run", "x"])
    message = capsys.readouterr().err
    assert status == WRONG_INPUT, message
    for text in said:
        assert text in message
    assert not (tmp_path / "runs" / "x" / "train").exists()


def test_a_network_of_ones_own_goes_through(segmentation_run: Path, tmp_path: Path, own_network: None) -> None:
    """Not trained, on images that are not square."""
    values = recipe_values(segmentation_run / "images")
    values["model"] = {"factory": "own_pixels:Quarter", "image_size": [32, 48]}
    values["train"] = {"epochs": 0}
    values["build"] = [{"backend": "openvino", "precisions": ["fp32"]}]
    values["quantize"] = {"precisions": ["fp32", "int8"]}
    values["gate"] = {"min_relative_miou": 1.0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    options = ["--recipe", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--run", "own"]
    assert main(["run", *options]) == DONE
    run = tmp_path / "runs" / "own"
    report = report_of(run)
    assert [variant["status"] for variant in report["variants"]] == ["pass"]
    assert report["variants"][0]["agreement"] == 100
    proto = onnx.load(run / "export" / "fp32.onnx")
    assert [dim.dim_value for dim in proto.graph.output[0].type.tensor_type.shape.dim][1:] == [3, 32, 48]


def test_a_network_in_an_onnx_file_goes_through(segmentation_run: Path, tmp_path: Path, own_network: None) -> None:
    """A file of a network that takes (N, C, H, W); one of smaller maps is refused."""
    from own_pixels import Quarter  # type: ignore[import-not-found]

    values = recipe_values(segmentation_run / "images")
    del values["train"]
    values["build"] = [{"backend": "onnxruntime", "precisions": ["fp32"]}]
    values["quantize"] = {"precisions": ["fp32", "int8"]}
    for whole, status in ((False, WRONG_INPUT), (True, DONE)):
        torch.onnx.export(
            Quarter(whole=whole).eval(), (torch.zeros(1, 3, 32, 32),), tmp_path / "network.onnx", dynamo=True, verbose=False
        )  # fmt: skip
        values["model"] = {"onnx": str(tmp_path / "network.onnx")}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        options = ["--recipe", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--run", "brought"]
        assert main(["run", *options]) == status
    report = report_of(tmp_path / "runs" / "brought")
    assert report["task"] == "segmentation" and report["variants"][0]["agreement"] == 100
    assert main(["predict", *options[2:], str(segmentation_run / "images" / "val" / "images" / "00.png")]) == DONE


def test_the_gate_is_on_miou() -> None:
    masks = np.random.default_rng(0).integers(0, 3, (20, 8, 8)).astype(np.uint8)
    task, worse = task_named("segmentation"), masks.copy()
    worse[:, 0, 0] = (worse[:, 0, 0] + 1) % 3

    def failure(ours: np.ndarray, share: float) -> str:
        return failure_reason(task, ours, ours, masks, task.scores(ours, masks)["miou"], 100.0, share)

    assert failure(masks, 1.0) == "" and failure(worse, 0.95) == ""
    assert failure(worse, 0.99).startswith("mIoU 9") and "is under 99 % of FP32's 100.00" in failure(worse, 0.99)
    broken = masks.copy()
    broken[3, 2, 1] = NO_CLASS
    assert failure(broken, 0.5) == "NaN or Inf in the logits of 5.0 % of the images"
    other = failure_reason(task, (masks + 1) % 3, masks, masks, 0.0, 100.0, 0.0)
    assert "it agrees with ONNX Runtime on the same graph on 0.0 % of the pixels" in other


def test_masks_are_cropped_and_mirrored_with_their_images(segmentation_run: Path, tmp_path: Path) -> None:
    """In images that are their masks in colour, every pixel still has its class after augmentation."""
    import cv2

    from pipeline.parts.train import TrainPart
    from pipeline.training.learning.learning import LEARNING

    split = read_masked_split(segmentation_run / "images", "train")
    colours = np.array([[0, 0, 0], [120, 120, 120], [240, 240, 240]], np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("\n".join(SCENE_CLASSES))
    for name in split.masks:
        mask = cv2.imread(str(split.root / name), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(tmp_path / "train" / name), mask)
        cv2.imwrite(str(tmp_path / "train" / name.replace("masks", "images")), colours[mask])
    own = read_masked_split(tmp_path, "train")
    spec = Preprocess(32, 32, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    samples = LEARNING["segmentation"].train_images(own, spec, TrainPart(random_resize_scale=(0.3, 1.0)))
    right, mirrored = [], set()
    for epoch in range(4):
        for index in range(len(own)):
            image, mask = samples[epoch, index]
            nearest = np.abs(image.numpy()[0][..., None].astype(int) - [0, 120, 240]).argmin(axis=-1)
            right.append((nearest == mask.numpy()).mean())
            mirrored.add(image.numpy().tobytes())
    assert np.mean(right) > 0.95 and min(right) > 0.8, "edges blur, and nothing else differs"
    assert len(mirrored) > 2 * len(own), "each epoch crops anew"
    again, _ = samples[1, 3]
    assert (again == samples[1, 3][0]).all(), "a crop depends on seed, epoch and index alone"
    assert IGNORED not in samples[0, 0][1]


def write_masks(root: Path, change) -> Path:
    """The shapes with every mask changed."""
    import cv2

    write_shapes(root)
    for path in sorted(root.glob("*/masks/*.png")):
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), path))
    return root


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mask, path: mask * 0 + IGNORED, ("show no class", "values 255")),
        (
            lambda mask, path: np.where(mask > 0, 255, 0).astype(np.uint8),
            ("show no class but the first", "black and white masks"),
        ),
    ],
)
def test_masks_that_say_nothing_are_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change, said: tuple[str, ...]
) -> None:
    root = write_masks(tmp_path / "images", change)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_values(root)))
    status = main(["train", "--recipe", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--run", "x"])
    message = capsys.readouterr().err
    assert status == WRONG_INPUT and all(text in message for text in said), message


def test_a_class_in_no_mask_is_said_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A square that training never sees pulls the score down, and batches whose every pixel is ignored change nothing."""

    def change(mask: np.ndarray, path: Path) -> np.ndarray:
        if path.parts[-3] == "val":
            return mask
        return np.full_like(mask, IGNORED) if int(path.stem) % 3 else np.where(mask == 2, 0, mask)

    root = write_masks(tmp_path / "images", change)
    values = recipe_values(root)
    values["train"] |= {"batch_size": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert (
        main(["train", "--recipe", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), "--run", "x"])
        == DONE
    )
    assert f"warning: no mask in {root / 'train'} has square" in capsys.readouterr().out


def test_the_trunk_starts_with_the_weights_of_a_resnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a classifier of timm: its last layer is left out, neck and head are new and learn at the full rate."""
    import timm

    from pipeline.parts.model import ModelPart
    from pipeline.parts.train import TrainPart
    from pipeline.training.state import _split_groups
    from pipeline.training.weights import load_checkpoint

    resnet = timm.create_model("resnet18", num_classes=10)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pt")
    part = ModelPart(name="fpn_resnet18", image_size=64, checkpoint=tmp_path / "resnet18.pt", transfer=True)
    spec = Preprocess(64, 64, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    loaded = load_checkpoint(part, SCENE_CLASSES, spec, task="segmentation")
    assert loaded.fresh_classifier and "fresh for 3 classes: branch." in loaded.notes[0]
    given, made = resnet.state_dict(), loaded.model.state_dict()
    assert all((made[name] == value).all() for name, value in given.items() if not name.startswith("fc."))
    groups = _split_groups(loaded.model, TrainPart(backbone_lr_ratio=0.1))
    named = {id(value): name for name, value in loaded.model.named_parameters()}
    for group in groups:
        kinds = {named[id(value)].startswith(("neck.", "branch.", "head.")) for value in group["params"]}
        assert kinds == {group["lr_scale"] == 1.0}
    with pytest.raises(InputError, match="has other weights than the model"):
        load_checkpoint(part.model_copy(update={"transfer": False}), SCENE_CLASSES, spec, task="segmentation")
