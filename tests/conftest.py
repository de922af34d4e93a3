"""Small real images and a small real network for all tests."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from golden import fill

import models  # noqa: F401  (registers the models)
from calib.preprocess import Preprocess


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
def image_root(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    """An image folder of three classes: 20 train and 10 val photographs each."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 20), ("val", 10)):
        for label in range(3):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            chosen = photographs[f"{split}_images"][photographs[f"{split}_labels"] == label][:count]
            for index, image in enumerate(chosen):
                cv2.imwrite(str(folder / f"{index:03d}.png"), image)
    return root


@pytest.fixture(scope="session")
def small_model() -> torch.nn.Module:
    """t2t_vit_mini with weights by rule, three classes."""
    model = timm.create_model("t2t_vit_mini", num_classes=3).eval()
    model.load_state_dict(fill(model.state_dict()))
    return model
