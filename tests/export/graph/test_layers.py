"""What a layer is does not depend on how its module reshapes: nn.MultiheadAttention multiplies (tokens · images, width)."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend, openvino_backend
from export.graph.layers import one_image_shapes, read_layers
from export.onnx_export import export_onnx
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import QuantizeOptions, quantize_int8
from export.simplify import simplify_onnx

pytestmark = pytest.mark.slow

SPEC = Preprocess(32, 32, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)


class SequenceFirst(nn.Module):
    """Tokens before images, as torch's encoder has them by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        layer = nn.TransformerEncoderLayer(32, 2, 64, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(images).flatten(2).permute(2, 0, 1)).mean(0))


def vit() -> nn.Module:
    """torchvision's vit_b_16, with two layers."""
    return VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=3
    )


@pytest.fixture(scope="module", params=[vit, SequenceFirst])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = request.param().eval()
    for value in model.parameters():  # biases too, which start as zeros and would be left out of the graph
        nn.init.normal_(value, std=0.2)
    folder = tmp_path_factory.mktemp("attention")
    export_onnx(model, SPEC, list("abc"), folder / "raw.onnx")
    assert simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", IMAGES[:3]).accepted
    return folder / "fp32.onnx"


def test_only_the_head_has_one_row_for_an_image(graph: Path) -> None:
    proto = onnx.load(graph)
    layers = [layer for layer in read_layers(proto) if layer.weight_shape and layer.operator in ("Gemm", "MatMul")]
    assert [layer.module for layer in layers if layer.one_row] == [layers[-1].module]
    assert (
        sum(layer.module.endswith(("self_attention", "self_attn")) for layer in layers) == 4
    )  # two for each of two blocks
    shapes = one_image_shapes(proto)
    assert all(all(shape) for shape in shapes.values()), "every size is known for one image"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_layer_of_every_block_is_int8(graph: Path, backend: str, tmp_path: Path) -> None:
    calibration = CalibrationSet(IMAGES, np.zeros(len(IMAGES), np.int64))
    path = tmp_path / "int8.onnx"
    found = quantize_int8(graph, path, calibration, QuantizeOptions(policy="weights"), DIALECTS[backend])
    quantized = [of.layer.module for of in found.decisions if of.int8]
    for block in (0, 1):
        assert sum(f"_{block}." in f"_{name}." or f".{block}." in name for name in quantized) == 4, quantized
    module = onnxruntime_backend if backend == "onnxruntime" else openvino_backend
    engine = module.build(path, (tmp_path / "engine").with_suffix(Path(module.ENGINE_NAME).suffix))
    assert engine.layers is not None and engine.layers["int8"] >= 8, engine.layers
