"""Small real images and a small real network for all tests, and what is made of them once for a test run."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
import yaml
from golden import fill
from once import Once, made_once

import models  # noqa: F401  (registers the models)
from calib.images import read_split
from calib.preprocess import Preprocess, load_batch
from export.engines import openvino_backend
from export.onnx_export import export_onnx
from export.simplify import simplify_onnx
from pipeline.cli import main

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is noted of images stays out of the cache of the person who runs the tests, and comes from no earlier run."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """See `made_once`."""
    return made_once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def spec() -> Preprocess:
    """The preprocessing of the small network."""
    return Preprocess(32, 32, 1.0, "bilinear", (0.286, 0.286, 0.286), (0.353, 0.353, 0.353))


@pytest.fixture(scope="session")
def photographs() -> dict[str, np.ndarray]:
    """The embedded set's arrays: uint8 images (N, 28, 28) and labels."""
    with np.load(Path(__file__).parents[1] / "data" / "fashion-mnist.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="session")
def image_root(once: Once, photographs: dict[str, np.ndarray]) -> Path:
    """An image folder of three classes: 20 train and 10 val photographs each."""
    return once("images", lambda root: write_images(root, photographs))


def write_images(root: Path, photographs: dict[str, np.ndarray]) -> None:
    """See `image_root`."""
    for split, count in (("train", 20), ("val", 10)):
        for label in range(3):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            chosen = photographs[f"{split}_images"][photographs[f"{split}_labels"] == label][:count]
            for index, image in enumerate(chosen):
                cv2.imwrite(str(folder / f"{index:03d}.png"), image)


@pytest.fixture(scope="session")
def small_model() -> torch.nn.Module:
    """t2t_vit_mini with weights by rule, three classes."""
    model = timm.create_model("t2t_vit_mini", num_classes=3).eval()
    model.load_state_dict(fill(model.state_dict()))
    return model


@pytest.fixture(scope="session")
def small_onnx(small_model: torch.nn.Module, spec: Preprocess, image_root: Path, once: Once) -> Path:
    """A folder with `raw.onnx`, `small_model` as it is exported, and `fp32.onnx`, the same simplified."""
    return once("small_onnx", lambda folder: export_small(small_model, spec, image_root, folder))


@pytest.fixture(scope="session")
def transformer_onnx(spec: Preprocess, image_root: Path, once: Once) -> Path:
    """`small_onnx` of t2t_vit_t_mini: soft splits by token transformers."""

    def make(folder: Path) -> None:
        model = timm.create_model("t2t_vit_t_mini", num_classes=3).eval()
        model.load_state_dict(fill(model.state_dict()))
        export_small(model, spec, image_root, folder)

    return once("transformer_onnx", make)


def export_small(model: torch.nn.Module, spec: Preprocess, image_root: Path, folder: Path) -> None:
    """See `small_onnx`."""
    assert export_onnx(model, spec, ["class_0", "class_1", "class_2"], folder / "raw.onnx").unfolds == ()
    images = load_batch(list(read_split(image_root, "train").paths[:4]), spec)
    result = simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", images)
    assert result.accepted, result.reason
    assert result.nodes_after["total"] < result.nodes_before["total"]


@pytest.fixture
def emulated_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has BF16, as far as our check can tell; the test is skipped where OpenVINO computes in FP32 all the same."""
    openvino = pytest.importorskip("openvino")
    values = openvino.opset13.parameter([1], np.float32)
    model = openvino.Model([openvino.opset13.relu(values)], [values])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    if compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != "bf16":
        pytest.skip("this CPU neither has BF16 nor emulates it: it has no AVX-512")
    monkeypatch.setattr(openvino_backend, "bf16_instructions", lambda: ["emulated"])


@pytest.fixture(scope="session")
def tiny_run(image_root: Path, once: Once) -> Path:
    """A folder with `images/`, `recipes/demo.yaml` and a finished run `runs/demo`: t2t_vit_mini after one epoch.

    Hardly trained, so the gate lets everything pass.
    """
    return once("tiny", lambda folder: make_tiny_run(folder, image_root))


def make_tiny_run(folder: Path, image_root: Path) -> None:
    """See `tiny_run`."""
    shutil.copytree(image_root, folder / "images")
    (folder / "recipes").mkdir()
    recipe = {
        "schema": 1,
        "data": {"name": "three classes", "root": "images"},
        "model": {"name": "t2t_vit_mini", "image_size": 32},
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.286] * 3, "std": [0.353] * 3},
        "train": {
            "epochs": 1, "batch_size": 20, "warmup_epochs": 0, "mixup": 0, "cutmix": 0, "auto_augment": None,
            "random_erasing": 0, "random_resize_scale": [0.8, 1.0], "ema_decay": 0, "workers": 0,
        },
        "calibrate": {"images": 24},
        "quantize": {"precisions": ["fp32", "int8"]},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32", "int8"]}],
        "evaluate": {"batch_size": 10},
        "visualize": {"images": 8},
        "benchmark": {"batch_sizes": [1, 8], "warmup": 1, "warmup_ms": 0, "rounds": 1, "calls": 2, "threads": 1},
        "gate": {"min_relative_top1": 0.0},
    }  # fmt: skip
    (folder / "recipes" / "demo.yaml").write_text(yaml.safe_dump(recipe))
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["run"]) == 0
    finally:
        os.chdir(before)
