"""Each engine's dialect: real engines compute it, in INT8 where it says so, and as the graph is written."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch

from calib.calibration import CalibrationSet
from calib.errors import InputError
from calib.images import read_split
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend, openvino_backend
from export.engines.spec import BACKENDS, OWN_GRAPHS, graph_of
from export.faults.rounding import allowed_db, snr_db
from export.graph.layers import read_layers
from export.graph.roles import QDQ
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.dialects import DIALECTS, PLAIN
from export.quantize.int8 import QuantizeOptions, apply_policies, quantize_int8
from export.runner import Engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calibration(image_root: Path, spec: Preprocess) -> CalibrationSet:
    split = read_split(image_root, "val")
    return CalibrationSet(load_batch(list(split.paths), spec), np.asarray(split.labels))


@pytest.fixture(scope="module", params=["resnet18", "mobilenetv2_050", "mobilenetv4_conv_small"])
def convolutional(request: pytest.FixtureRequest, spec: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / f"{request.param}.onnx"
    export_onnx(timm.create_model(request.param, num_classes=3).eval(), spec, ["a", "b", "c"], path)
    return path


def build(backend: str, path: Path) -> Engine:
    module = onnxruntime_backend if backend == "onnxruntime" else openvino_backend
    return module.build(path, path.with_name(f"{path.stem}-{backend}").with_suffix(Path(module.ENGINE_NAME).suffix))


def logits(backend: str, path: Path, images: np.ndarray) -> np.ndarray:
    module = onnxruntime_backend if backend == "onnxruntime" else openvino_backend
    with module.load(path, 1) as runner:
        return np.asarray(runner.infer({INPUT: images})[OUTPUT])


def test_the_table_has_a_row_for_each_engine_and_a_graph_for_each_row_of_its_own() -> None:
    assert set(DIALECTS) == set(BACKENDS)
    assert {name for name, dialect in DIALECTS.items() if dialect != PLAIN} == set(OWN_GRAPHS)
    assert {graph_of(backend, "int8") for backend in BACKENDS} == {"int8", *(f"int8-{name}" for name in OWN_GRAPHS)}
    assert {graph_of(backend, "int8-fp16") for backend in BACKENDS} == {"int8-fp16"}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_convolution_is_int8_and_computed_right(
    convolutional: Path, calibration: CalibrationSet, backend: str, tmp_path: Path
) -> None:
    path, images = tmp_path / "int8.onnx", calibration.first(8)
    quantize_int8(convolutional, path, calibration, QuantizeOptions(), DIALECTS[backend])
    engine = build(backend, path)
    assert engine.layers is not None
    assert engine.layers["fp32"] <= 1 and engine.layers["int8"] >= 20, engine.layers
    with onnxruntime_backend.load(path, 1, literal=True) as runner:
        written = np.asarray(runner.infer({INPUT: images})[OUTPUT])
    in_float = logits("onnxruntime", convolutional, images)
    found = logits(backend, engine.path, images)
    assert snr_db(found, written) > max(allowed_db(written, in_float), 10), "the engine computes its graph"


def test_t2t_vit_on_openvino(small_onnx: Path, calibration: CalibrationSet, tmp_path: Path) -> None:
    """Soft splits are INT8, and of each block one quantization is behind Q, K and V together."""
    path = tmp_path / "int8.onnx"
    found = quantize_int8(small_onnx / "fp32.onnx", path, calibration, QuantizeOptions(), DIALECTS["openvino"])
    splits = [of for of in found.decisions if of.int8 and of.layer.module.endswith("kqv")]
    assert len(splits) == 4, "two products for each soft split"
    proto = onnx.load(path)
    users: dict[str, list[str]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)
    products = [
        node for node in proto.graph.node if node.op_type == "MatMul" and "attn.qkv" in str(node.metadata_props)
    ]
    assert len(products) == 4 and all(users[node.output[0]] == ["QuantizeLinear"] for node in products)
    parts = {name for node in proto.graph.node if node.op_type == "Split" for name in node.output}
    assert not any(operator in QDQ for name in parts for operator in users.get(name, []))
    engine = build("openvino", path)
    assert engine.layers is not None and engine.layers["fp32"] <= 9, engine.layers


def test_t2t_vit_on_onnxruntime_quantizes_nothing_around_what_stays_in_floating_point(
    small_onnx: Path, calibration: CalibrationSet, tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    found = quantize_int8(small_onnx / "fp32.onnx", path, calibration, QuantizeOptions(), DIALECTS["onnxruntime"])
    engine = build("onnxruntime", path)
    assert engine.layers is not None and engine.layers["int8"] == sum(of.int8 for of in found.decisions) > 20


@pytest.fixture(scope="module")
def sums(spec: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "resnet18.onnx"
    export_onnx(timm.create_model("resnet18", num_classes=3).eval(), spec, ["a", "b", "c"], path)
    return path


def test_exclude_overrules_what_a_dialect_asks(sums: Path, calibration: CalibrationSet, tmp_path: Path) -> None:
    """It may make the graph slow or wrong there; the build stage would find that."""
    layers = [of for of in read_layers(onnx.load(sums)) if of.role == "residual"]
    options = QuantizeOptions(exclude=(layers[0].name,))
    found = quantize_int8(sums, tmp_path / "int8.onnx", calibration, options, DIALECTS["openvino"])
    told = {of.layer.name: of for of in found.decisions}
    assert not told[layers[0].name].int8 and told[layers[0].name].reason.startswith("exclude")
    assert all(told[layer.name].inputs == (0, 1) for layer in layers[1:])


def test_a_pattern_may_name_a_layer_of_one_form_alone(small_onnx: Path, calibration: CalibrationSet) -> None:
    """A soft split is a convolution in one form and a product of its own in another; a pattern for neither is an error."""
    proto, dialects = onnx.load(small_onnx / "fp32.onnx"), [PLAIN, DIALECTS["openvino"]]
    convolution = next(of for of in read_layers(proto) if of.operator == "Conv" and of.kernel)
    options = QuantizeOptions(exclude=(r"tokens_to_token\.attention1\.kqv",), include=(convolution.name,))
    (_, plain), (_, windows) = apply_policies(proto, calibration, options, dialects)
    assert any(of.layer.name == convolution.name and of.int8 for of in plain.decisions)
    assert [of.int8 for of in windows.decisions if of.layer.module.endswith("attention1.kqv")] == [False, False]
    with pytest.raises(InputError, match="names no layer"):
        apply_policies(proto, calibration, QuantizeOptions(exclude=("attention3",)), dialects)


def test_ranges_for_one_dialect_do_not_change_another(sums: Path, calibration: CalibrationSet) -> None:
    """ONNX Runtime's pooling hands its grid on; TensorRT's graph is the same whether that one is made or not."""
    proto = onnx.load(sums)
    (_, alone), *_ = apply_policies(proto, calibration, QuantizeOptions(method="mse"), [PLAIN])
    (_, beside), (_, other) = apply_policies(
        proto, calibration, QuantizeOptions(method="mse"), [PLAIN, DIALECTS["onnxruntime"]]
    )
    assert alone.ranges == beside.ranges
    (pool,) = [node for node in proto.graph.node if node.op_type == "MaxPool"]
    assert other.ranges[pool.input[0]] == other.ranges[pool.output[0]]


def test_soft_splits_that_are_not_written_as_ours_are_told(small_onnx: Path) -> None:
    """As in a graph that was not simplified: it is right, and its soft splits stay in floating point."""
    dialect = DIALECTS["openvino"]
    assert dialect.left_as_exported(dialect.form(onnx.load(small_onnx / "fp32.onnx"))) == []
    left = dialect.left_as_exported(dialect.form(onnx.load(small_onnx / "raw.onnx")))
    assert left == ["model.tokens_to_token.attention1", "model.tokens_to_token.attention2"]
