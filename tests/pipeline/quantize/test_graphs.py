"""What the quantize stage hands on to the methods."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import parser

from calib.calibration import CalibrationSet, spread
from pipeline.parts.quantize import QuantizePart
from pipeline.quantize import graphs as quantize_graphs


def test_smoothquant_looks_at_images_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration set is sorted by class: its first 128 images of 640 would be of two classes of ten."""
    images = np.zeros((640, 2, 2, 3), np.uint8)
    images[:, 0, 0, :2] = np.arange(640)[:, None] // np.array([256, 1]) % 256  # its number
    seen: list[Any] = []

    def sweep_alpha(source: Path, target: Path, batches: Any, *_: Any) -> None:
        seen.append(np.concatenate(list(batches())))
        raise InterruptedError  # all that is asked here

    monkeypatch.setattr(quantize_graphs, "sweep_alpha", sweep_alpha)
    proto = parser.parse_model('<ir_version: 10, opset_import: ["": 20]> g (float[1] a) => (float[1] b) { b = Neg(a) }')
    with pytest.raises(InterruptedError):
        quantize_graphs.smooth(proto, QuantizePart(), CalibrationSet(images, np.repeat(np.arange(10), 64)))
    numbers = seen[0][:, 0, 0, :2].astype(int) @ [256, 1]
    assert numbers.tolist() == spread(640, 128) and set(numbers // 64) == set(range(10))
