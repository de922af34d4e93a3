"""PyTorch as it is: the graph's logits, in FP32, of any number of images."""

from pathlib import Path

import numpy as np
import pytest
from torch_engines import Engines, own_images

from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.engines.engine import build_engine, load_engine
from export.engines.spec import EngineSpec, why_not
from export.faults.rounding import snr_db
from export.onnx_export import INPUT, OUTPUT

pytestmark = pytest.mark.slow


def test_its_logits_are_the_graph_s(engines: Engines, photos: np.ndarray, tmp_path: Path) -> None:
    graph, images = engines.graph("t2t_vit_mini", "fp32"), own_images(photos, "t2t_vit_mini")
    spec = Preprocess(32, 32, 1.0, "bilinear", (0.3,) * 3, (0.35,) * 3)
    build_engine(EngineSpec("pytorch", "fp32", None, (1, 1, 8)), graph, tmp_path / "engine", spec, list("abc"))
    sidecar, runner = load_engine(tmp_path / "engine", 1)
    assert sidecar.layers is not None and sidecar.layers["int8"] == 0 < sidecar.layers["fp32"]
    assert sidecar.instructions is None, "a graph runs on any machine"
    with runner, onnxruntime_backend.load(graph, 1, literal=True) as reference:
        assert runner.inputs[0].shape == (None, 32, 32, 3)
        for some in (images, images[:1]):
            assert snr_db(reference.infer({INPUT: some})[OUTPUT], runner.infer({INPUT: some})[OUTPUT]) > 100


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8", "int8-fp16"])
def test_it_is_a_baseline_in_fp32_alone(precision: str) -> None:
    assert "it is the baseline" in why_not("pytorch", precision) and not why_not("pytorch", "fp32")
