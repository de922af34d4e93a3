"""Export, unfold replacement and simplification on real photographs."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from calib.images import read_split
from calib.preprocess import Preprocess, load_batch
from export.graph.layers import read_layers
from export.onnx_export import (
    CLASSES_KEY,
    INPUT,
    OUTPUT,
    PREPROCESS_KEY,
    TASK_KEY,
    NormalisedModel,
    describe,
    export_onnx,
    read_metadata,
    read_task,
)
from export.simplify import simplify_onnx
from export.unfold import GroupedConvUnfold, replace_unfolds

pytestmark = pytest.mark.slow

CLASSES = ["class_0", "class_1", "class_2"]


@pytest.fixture(scope="module")
def images(image_root: Path, spec: Preprocess) -> np.ndarray:
    return load_batch(list(read_split(image_root, "val").paths), spec)


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: images})[0]


@pytest.mark.parametrize("batch", [1, 2, 8, 30])
def test_equals_pytorch_at_any_batch(
    small_onnx: Path, small_model: nn.Module, spec: Preprocess, images: np.ndarray, batch: int
) -> None:
    with torch.no_grad():
        expected = NormalisedModel(small_model, spec)(torch.from_numpy(images[:batch])).numpy()
    difference = np.abs(run(small_onnx / "fp32.onnx", images[:batch]) - expected)
    assert difference.max() < 2e-4, f"max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_nodes_have_unique_fixed_width_names(small_onnx: Path) -> None:
    names = [node.name for node in onnx.load(small_onnx / "fp32.onnx").graph.node]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"node_\d{5}", name) for name in names)


def test_input_output_and_metadata(small_onnx: Path, spec: Preprocess) -> None:
    proto = onnx.load(small_onnx / "fp32.onnx")
    (image,) = proto.graph.input
    sizes = [dimension.dim_value for dimension in image.type.tensor_type.shape.dim]
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8 and sizes == [0, 32, 32, 3]
    assert read_metadata(proto) == (spec, CLASSES) and read_task(proto) == "classification"
    assert {entry.key for entry in proto.metadata_props} == {PREPROCESS_KEY, CLASSES_KEY}
    operators = [node.op_type for node in proto.graph.node]
    assert operators.index("Cast") < operators.index("Transpose")  # TensorRT does not transpose uint8


def test_a_graph_says_what_it_is_for_where_that_is_not_classification(small_onnx: Path, spec: Preprocess) -> None:
    proto = onnx.load(small_onnx / "fp32.onnx")
    before = proto.SerializeToString(deterministic=True)
    describe(proto, spec, CLASSES, "classification")
    assert proto.SerializeToString(deterministic=True) == before
    describe(proto, spec, CLASSES, "segmentation")
    assert {entry.key: entry.value for entry in proto.metadata_props}[TASK_KEY] == "segmentation"
    assert read_task(proto) == "segmentation" and read_metadata(proto) == (spec, CLASSES)


def test_modules_are_known_for_every_weight_layer(small_onnx: Path) -> None:
    layers = [
        layer
        for layer in read_layers(onnx.load(small_onnx / "fp32.onnx"))
        if layer.weight_shape and layer.operator in ("Conv", "MatMul", "Gemm")
    ]
    modules = {layer.module for layer in layers}
    assert {"blocks.0.attn.qkv", "blocks.3.mlp.fc2", "head", "tokens_to_token.attention1"} <= modules
    assert "" not in modules


def test_the_unfolded_tensor_is_not_in_the_graph(small_onnx: Path) -> None:
    inferred = onnx.shape_inference.infer_shapes(onnx.load(small_onnx / "fp32.onnx"))
    shapes = [
        tuple(dimension.dim_value for dimension in info.type.tensor_type.shape.dim)
        for info in inferred.graph.value_info
    ]
    assert (0, 64, 192) in shapes  # 64 tokens of q, k and v
    assert not {(64, 147), (147, 64), (64, 576), (576, 64)} & {shape[-2:] for shape in shapes}


@pytest.mark.parametrize(
    "arguments",
    [{"kernel_size": 7, "stride": 4, "padding": 2}, {"kernel_size": (3, 2), "dilation": 2, "padding": (1, 0)}],
)
def test_grouped_convolution_equals_unfold_to_the_bit(arguments: dict) -> None:
    unfold = nn.Unfold(**arguments)
    x = torch.randn(2, 5, 21, 18, generator=torch.Generator().manual_seed(0))
    assert torch.equal(GroupedConvUnfold(unfold, 5)(x), unfold(x))


class UserModel(nn.Module):
    """A user's classifier with an `nn.Unfold` in it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Unfold(4, stride=4)
        self.head = nn.Linear(48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.patches(x).transpose(1, 2)).mean(1)


def test_a_users_unfold_is_replaced_before_export(spec: Preprocess, images: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = UserModel().eval()
    assert export_onnx(model, spec, CLASSES, tmp_path / "user.onnx").unfolds == ("patches",)
    assert isinstance(model.patches, nn.Unfold)  # the user's own model is left alone
    operators = [node.op_type for node in onnx.load(tmp_path / "user.onnx").graph.node]
    assert operators.count("Conv") == 1 and "GatherND" not in operators and "Gather" not in operators
    with torch.no_grad():
        expected = NormalisedModel(model, spec)(torch.from_numpy(images)).numpy()
    assert np.abs(run(tmp_path / "user.onnx", images) - expected).max() < 1e-4
    assert replace_unfolds(nn.Linear(2, 2), torch.zeros(1, 2))[1] == []


def test_simplification_that_changes_outputs_is_not_taken(
    small_onnx: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxsim

    def wrong(proto: onnx.ModelProto, **options: object) -> tuple[onnx.ModelProto, bool]:
        changed = onnx.ModelProto.FromString(proto.SerializeToString())
        bias = next(value for value in changed.graph.initializer if value.name.endswith("head.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
        return changed, True

    monkeypatch.setattr(onnxsim, "simplify", wrong)
    result = simplify_onnx(small_onnx / "raw.onnx", tmp_path / "out.onnx", images[:2])
    assert not result.accepted and re.search(r"outputs moved by .*: SNR", result.reason)
    assert (run(tmp_path / "out.onnx", images) == run(small_onnx / "raw.onnx", images)).all()


def test_pooling_to_one_pixel_is_a_mean_and_no_gather(spec: Preprocess, images: np.ndarray, tmp_path: Path) -> None:
    """torchvision's networks pool so. OpenVINO 2026.4.1 shuffles the channels of the Gather, behind an INT8 convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    ).eval()
    export_onnx(model, spec, CLASSES, tmp_path / "raw.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "raw.onnx").graph.node}
    assert "ReduceMean" in operators and not operators & {"Gather", "Range"}
    with torch.no_grad():
        expected = NormalisedModel(model, spec)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(tmp_path / "raw.onnx", images), expected, atol=1e-5)
