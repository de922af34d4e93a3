"""A finished run through every stage. For the tests of prediction: one with a real engine, a video, and a camera on the
network. And a bundle."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import open_browser
from bundles import make_bare_python, write_bundle_of_run
from chain_run import make_chain
from once import Once
from pipeline_cameras import NetworkCamera
from playwright.sync_api import Browser
from segmentation_run import make_segmentation_run, write_engine

from calib.preprocess import Preprocess
from export.engines.engine import build_engine
from export.engines.spec import EngineSpec

CLASSES = ["class_0", "class_1", "class_2"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, one for all pages: two cannot run in one process. Its tests are skipped where there is none."""
    with open_browser() as found:
        yield found


@pytest.fixture(scope="session")
def chain(image_root: Path, once: Once) -> Path:
    """A folder with `recipe.yaml` and a finished run `runs/small`."""
    return once("chain", lambda folder: make_chain(folder, image_root))


@pytest.fixture(scope="session")
def predict_run(tmp_path_factory: pytest.TempPathFactory, small_onnx: Path, spec: Preprocess) -> Path:
    """`runs/small`: one engine that passed, one that failed; the engine is real, the report is what predict reads of one."""
    run = tmp_path_factory.mktemp("predict") / "runs" / "small"
    run.mkdir(parents=True)
    shutil.copy(small_onnx / "raw.onnx", run / "fp32.onnx")
    engine = EngineSpec("onnxruntime", "fp32", None, (1, 1, 8))
    sidecar = build_engine(engine, run / "fp32.onnx", run / "build" / engine.name, spec, CLASSES)
    passed = {"name": engine.name, "status": "pass", "sha256": sidecar.files[sidecar.engine]}
    report = {
        "preprocess_sha256": spec.sha256(),
        "variants": [passed, {"name": "openvino-int8", "status": "fail", "sha256": None}],
        "recommended": {"name": engine.name},
    }
    (run / "report").mkdir()
    (run / "report" / "report.json").write_text(json.dumps(report))
    return run


@pytest.fixture(scope="session")
def pixel_run(once: Once) -> Path:
    """`runs/small` as `predict_run`, of a network that classifies pixels: see `segmentation_run.Brightest`."""
    return once("pixel_run", lambda folder: write_engine(folder / "runs" / "small")) / "runs" / "small"


@pytest.fixture(scope="session")
def segmentation_run(once: Once) -> Path:
    """A folder with `images/`, `recipe.yaml`, a finished segmentation `runs/shapes` of every stage, and its bundle."""
    return once("segmentation", make_segmentation_run)


@pytest.fixture(scope="session")
def bare_python(once: Once) -> Path:
    """The Python of an environment with numpy, OpenCV and ONNX Runtime alone."""
    return once("bare", make_bare_python) / "bin" / "python"


@pytest.fixture(scope="session")
def frames(photographs: dict[str, np.ndarray]) -> np.ndarray:
    """40 photographs as BGR video frames (40, 120, 160, 3)."""
    return np.stack([
        cv2.cvtColor(cv2.resize(image, (160, 120)), cv2.COLOR_GRAY2BGR) for image in photographs["val_images"][:40]
    ])  # fmt: skip


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory, frames: np.ndarray) -> Path:
    """A Motion JPEG video of 40 frames at 20 a second."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (160, 120))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def endless_camera(frames: np.ndarray) -> Iterator[NetworkCamera]:
    """A network camera that never ends."""
    with NetworkCamera(frames, None) as camera:
        yield camera


@pytest.fixture(scope="session")
def bundled_run(image_root: Path, spec: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `runs/small`, and its bundle."""
    return write_bundle_of_run(tmp_path_factory.mktemp("bundle"), image_root, spec)


@pytest.fixture
def copied(bundled_run: Path, tmp_path: Path) -> Path:
    """The bundle as a device has it: copied, without anything measured."""
    return shutil.copytree(bundled_run / "runs" / "small" / "bundle", tmp_path / "copied")
