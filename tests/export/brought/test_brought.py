"""ONNX files in the forms that people bring: what is made of them computes what they compute; what cannot be taken is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from brought_files import write_brought, write_edited
from onnx import TensorProto, helper, numpy_helper

from calib.errors import InputError
from calib.images import read_split
from calib.preprocess import Preprocess, load_batch
from export.brought.file import files_beside, read_file
from export.brought.graph import with_our_input
from export.brought.interface import read_interface
from export.brought.reference import open_reference
from export.engines import onnxruntime_backend
from export.graph.layers import read_layers
from export.onnx_export import INPUT, OUTPUT, read_metadata

NAMES = ["class_0", "class_1", "class_2"]


@pytest.fixture(scope="module")
def images(image_root: Path, spec: Preprocess) -> np.ndarray:
    return load_batch(list(read_split(image_root, "val").paths[:6]), spec)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brought(tmp_path_factory.mktemp("brought") / "network.onnx")


def logits_of(path: Path, images: np.ndarray) -> np.ndarray:
    with onnxruntime_backend.load(path, 1) as runner:
        return runner.infer({INPUT: images})[OUTPUT]


def check_taken(
    path: Path, spec: Preprocess, images: np.ndarray, folder: Path, output: str | None = None, opset: int = 20
) -> onnx.ModelProto:
    """Take the file; its own logits must be those of the graph that is made of it. Returns that graph."""
    proto = read_file(path)
    of = read_interface(proto, path, spec, 3, output)
    made = with_our_input(proto, of, spec, NAMES, opset)
    onnx.save(made, folder / "made.onnx")
    with open_reference(proto, of, spec, 1) as reference:
        expected = reference(images)
    difference = np.abs(logits_of(folder / "made.onnx", images) - expected)
    assert expected.shape == (len(images), 3) and expected.std() > 0.01
    assert difference.max() < 1e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    found, classes = read_metadata(made)
    assert found == spec and classes == NAMES and len({node.name for node in made.graph.node}) == len(made.graph.node)
    return made


@pytest.mark.parametrize(
    ("change", "output"),
    [({}, None), ({"softmax": True}, None), ({"second_output": True}, "scores"), ({"channels_last": True}, None),
     ({"uint8": True}, None)],
    ids=["plain", "softmax", "second output", "channels last", "uint8"],
)  # fmt: skip
def test_forms(
    network: Path, spec: Preprocess, images: np.ndarray, tmp_path: Path, change: dict[str, Any], output: str | None
) -> None:
    made = check_taken(write_edited(network, tmp_path / "file.onnx", **change), spec, images, tmp_path, output)
    assert not [node for node in made.graph.node if node.op_type == "Softmax"], "logits are what is compared"
    assert len(made.graph.output) == 1 and made.opset_import[0].version == 20
    operators = [node.op_type for node in made.graph.node[:2]]
    assert operators == ["Cast", "Transpose"]


def test_logits_are_those_of_the_network_in_pytorch(
    network: Path, spec: Preprocess, images: np.ndarray, tmp_path: Path
) -> None:
    from brought_files import SmallNetwork

    from export.onnx_export import NormalisedModel

    check_taken(network, spec, images, tmp_path)
    with torch.inference_mode():
        expected = NormalisedModel(SmallNetwork(3, 3).eval(), spec)(torch.from_numpy(images)).numpy()
    difference = np.abs(logits_of(tmp_path / "made.onnx", images) - expected)
    assert difference.max() < 1e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_older_opsets_are_converted(spec: Preprocess, images: np.ndarray, tmp_path: Path, opset: int) -> None:
    path = write_brought(tmp_path / "old.onnx", opset=opset)
    made = check_taken(path, spec, images, tmp_path)
    assert made.opset_import[0].version == 20
    modules = {layer.module for layer in read_layers(made) if layer.operator == "Conv"}
    assert modules == {"stem.0", "blocks.0.0", "blocks.1.0", "blocks.2.0"}


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_takes_any_number_of_images(
    spec: Preprocess, images: np.ndarray, tmp_path: Path, batch: int
) -> None:
    made = check_taken(write_brought(tmp_path / "fixed.onnx", batch=batch), spec, images, tmp_path)
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_value == batch
    few = logits_of(tmp_path / "made.onnx", images[:1])
    np.testing.assert_allclose(few, logits_of(tmp_path / "made.onnx", images)[:1], atol=1e-6)


def test_grey_and_not_square(tmp_path: Path, image_root: Path) -> None:
    spec = Preprocess(64, 32, 1.0, "bilinear", (0.4,), (0.2,), "grey")
    images = load_batch(list(read_split(image_root, "val").paths[:6]), spec)
    images[..., 2] //= 3
    check_taken(write_brought(tmp_path / "grey.onnx", (64, 32), channels=1), spec, images, tmp_path)


def test_a_transformer_of_the_other_exporter_keeps_its_modules(
    spec: Preprocess, images: np.ndarray, tmp_path: Path
) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_classes=3
    ).eval()
    program = torch.onnx.export(
        model, (torch.zeros(2, 3, 32, 32),), dynamo=True, opset_version=18, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("n")},),
    )  # fmt: skip
    assert program is not None
    program.save(str(tmp_path / "vit.onnx"))
    made = check_taken(tmp_path / "vit.onnx", spec, images, tmp_path)
    modules = {layer.module for layer in read_layers(made) if layer.operator in ("MatMul", "Gemm")}
    assert {"blocks.0.attn.qkv", "blocks.1.mlp.fc1", "head"} <= modules, modules


def test_weights_in_another_file(network: Path, spec: Preprocess, images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save(onnx.load(network), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert files_beside(path) == ["weights.bin"]
    check_taken(path, spec, images, tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match="weights in another file") as caught:
        read_file(path)
    assert "weights.bin" in str(caught.value.got) and "beside" in str(caught.value.next_step)


def test_weights_outside_the_folder_are_not_read(network: Path, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "file.onnx"
    onnx.save(onnx.load(network), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../secret.bin" if entry.key == "location" else entry.value
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "secret.bin").write_bytes((tmp_path / "inside" / "weights.bin").read_bytes())
    with pytest.raises(InputError, match="weights outside its folder"):
        read_file(path)


def changed(network: Path, path: Path, change: str) -> Path:
    """A copy of the file with something that cannot be taken."""
    proto = onnx.load(network)
    graph = proto.graph
    if change == "quantized":
        graph.initializer.extend([
            numpy_helper.from_array(np.float32(0.1), "step"), numpy_helper.from_array(np.int8(0), "zero"),
        ])  # fmt: skip
        graph.node.insert(0, helper.make_node("QuantizeLinear", ["pixels", "step", "zero"], ["quantized"]))
    elif change == "half":
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float16), "half"))
    elif change == "another domain":
        graph.node.append(helper.make_node("FusedConv", ["pixels"], ["fused"], domain="com.microsoft"))
    elif change == "two inputs":
        graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    elif change == "rank":
        graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3072]))
    elif change == "size":
        graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 64, 48]))
    elif change == "int64":
        graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.INT64, ["n", 3, 32, 32]))
    elif change == "classes":
        graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1000]))
    elif change == "map":
        graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3, 8, 8]))
    elif change == "two outputs":
        graph.node.append(helper.make_node("ReduceMean", ["pixels"], ["features"], keepdims=1))
        graph.output.insert(0, helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 1, 1, 1]))
    path.write_bytes(b"no protobuf" if change == "text" else b"" if change == "empty" else proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "what", "advice"),
    [
        ("text", "is not an ONNX file", "copy or export it again"),
        ("empty", "is not an ONNX file", "copy or export it again"),
        ("quantized", "is quantized already", "quantized from"),
        ("half", "has weights in FP16", "in FP32"),
        ("another domain", "operators that are not ONNX's own", "without an engine's optimisations"),
        ("two inputs", "has 2 inputs", "only input"),
        ("rank", "holds no images", "such an input"),
        ("int64", "holds no images", "such an input"),
        ("size", "is not what the recipe says", "image_size: [64, 48]"),
        ("classes", "another number of classes", "data.root"),
        ("map", "no score for each class", "as an output"),
        ("two outputs", "has several outputs", "output: scores"),
    ],
)
def test_what_cannot_be_taken_is_named(
    network: Path, spec: Preprocess, tmp_path: Path, change: str, what: str, advice: str
) -> None:
    path = changed(network, tmp_path / "file.onnx", change)
    with pytest.raises(InputError, match=what) as caught:
        read_interface(read_file(path), path, spec, 3, None)
    assert advice in str(caught.value.next_step) and str(path) in caught.value.what


def test_other_refusals(network: Path, spec: Preprocess, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such ONNX file"):
        read_file(tmp_path / "gone.onnx")
    with pytest.raises(InputError, match="no such output") as caught:
        read_interface(read_file(network), network, spec, 3, "probabilities")
    assert "scores" in str(caught.value.allowed)
    grey = Preprocess(32, 32, 1.0, "bilinear", (0.4,), (0.2,), "grey")
    with pytest.raises(InputError, match="is not what the recipe says"):
        read_interface(read_file(network), network, grey, 3, None)
    proto = read_file(network)
    of = read_interface(proto, network, spec, 3, None)
    proto.opset_import[0].version = 24
    with pytest.raises(InputError, match="newer than what the stages know"):
        with_our_input(proto, of, spec, NAMES, 20)


def test_metadata_of_the_file_is_not_taken_for_ours(
    network: Path, spec: Preprocess, images: np.ndarray, tmp_path: Path
) -> None:
    proto = onnx.load(network)
    helper.set_model_props(proto, {"t2t_edge.classes": json.dumps(["a"]), "author": "someone"})
    onnx.save(proto, tmp_path / "file.onnx")
    made = check_taken(tmp_path / "file.onnx", spec, images, tmp_path)
    assert "author" not in {entry.key for entry in made.metadata_props}
