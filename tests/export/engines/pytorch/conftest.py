"""Tiny networks and their engines, each compiled once for a test run."""

from pathlib import Path

import numpy as np
import pytest
from once import Once
from torch_engines import NETWORKS, Engines, write_graphs

from calib.images import read_split
from calib.preprocess import Preprocess, load_batch


@pytest.fixture(scope="session")
def photos(image_root: Path) -> np.ndarray:
    """24 photographs, 64 px."""
    spec = Preprocess(64, 64, 1.0, "bilinear", (0.3,) * 3, (0.35,) * 3)
    return load_batch(list(read_split(image_root, "train").paths[::2][:24]), spec)


@pytest.fixture(scope="session")
def graphs(once: Once, photos: np.ndarray) -> Path:
    """`<network>.onnx` in FP32 and `<network>-int8.onnx` in Inductor's dialect, both with what BF16 leaves in FP32."""
    return once("pytorch_graphs", lambda folder: [write_graphs(folder, name, photos) for name in NETWORKS])


@pytest.fixture(scope="session")
def engines(once: Once, graphs: Path) -> Engines:
    return Engines(once, graphs)
