"""Whole networks as programs of PyTorch: they compute their ONNX graph, and Q/DQ are PT2E's."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

import models  # noqa: F401  (registers the models)
from calib.calibration import CalibrationSet
from calib.images import read_split
from calib.precision.policy import performer_kernel
from calib.preprocess import Preprocess, load_batch
from export.graph.layers import read_layers
from export.onnx_export import export_onnx
from export.program.program import read_module, read_program
from export.quantize.cast_fp16 import cast_fp16
from export.quantize.dialects import DIALECTS, PLAIN, Dialect
from export.quantize.int8 import QuantizeOptions, quantize_int8
from export.simplify import simplify_onnx

pytestmark = pytest.mark.slow
NETWORKS = ("t2t_vit_mini", "t2t_vit_t_mini", "vit_tiny_patch16_224", "resnet18", "mobilenetv2_050", "vt_fpn_mini")
OPTIONS = {"t2t_vit_mini": 32, "t2t_vit_t_mini": 32, "vit_tiny_patch16_224": 64, "vt_fpn_mini": 96}
BORDER = 1e-3  # of a step: FP32's rounding in front of a quantization is less
Images = np.ndarray


@pytest.fixture(scope="module")
def images(image_root: Path) -> Images:
    """24 photographs, 96 px."""
    spec = Preprocess(96, 96, 1.0, "bilinear", (0.3,) * 3, (0.35,) * 3)
    return load_batch(list(read_split(image_root, "train").paths[::2][:24]), spec)


@pytest.fixture(scope="module", params=NETWORKS)
def fp32(
    request: pytest.FixtureRequest, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Images]:
    """The simplified graph of a network with random weights, and images of its size."""
    folder, name = tmp_path_factory.mktemp("program"), request.param
    side = OPTIONS.get(name, 64)
    torch.manual_seed(0)
    sized = {"img_size": side} if name in OPTIONS else {}
    model = timm.create_model(name, num_classes=3, **sized).eval()
    export_onnx(
        model, Preprocess(side, side, 1.0, "bilinear", (0.3,) * 3, (0.35,) * 3), list("abc"), folder / "raw.onnx"
    )
    own = np.ascontiguousarray(images[:, :side, :side])
    simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", own[:2])
    return folder / "fp32.onnx", own


def literal(path: Path, images: Images) -> np.ndarray:
    """What the graph computes, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options).run(None, {"images": images})[0].astype(np.float64)


def snr_of_images(reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    """dB for each image."""
    axes = tuple(range(1, reference.ndim))
    noise = np.maximum(((reference - found) ** 2).sum(axes), 1e-300)
    return 10 * np.log10((reference**2).sum(axes) / noise)


def compute(program: torch.export.ExportedProgram, images: Images) -> np.ndarray:
    return program.module()(torch.from_numpy(images)).detach().double().numpy()


def test_a_network_in_fp32_is_its_graph_with_any_batch_and_with_one(fp32: tuple[Path, Images]) -> None:
    path, images = fp32
    proto, expected = onnx.load(path), literal(path, images)
    found = compute(read_program(proto), images)
    assert snr_of_images(expected, found).min() > 100
    one = read_program(proto, batch=1)
    assert snr_of_images(expected[:1], compute(one, images[:1])).min() > 100
    with pytest.raises(AssertionError, match=r"images\.size"):
        compute(one, images[:2])


class Quantizing(torch.fx.Interpreter):
    """Keeps what each quantize_per_tensor takes and gives."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__(program.module())
        self.seen: list[tuple[np.ndarray, float, np.ndarray]] = []

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            value, scale, *_ = self.fetch_args_kwargs_from_env(n)[0]
            self.seen.append((value.numpy(), float(scale), result.numpy().astype(int)))
        return result


def first_differences_lie_on_borders(
    proto: onnx.ModelProto, program: torch.export.ExportedProgram, images: Images
) -> np.ndarray:
    """Which images have the integers that ONNX Runtime has, node by node, throughout.

    A float's last bit decides where a value lies on the border between two integers, and how many images have such a value
    depends on the CPU. So the first integers in which an image differs have to be neighbours on either side of a border.
    """
    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    names = [node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    integers = onnxruntime.InferenceSession(tapped.SerializeToString(), options).run(names, {"images": images})
    quantizing = Quantizing(program)
    with torch.no_grad():
        quantizing.run(torch.from_numpy(images))
    assert len(quantizing.seen) == len(integers) > 0
    same = np.ones(len(images), dtype=bool)
    for theirs, (value, scale, ours) in zip(integers, quantizing.seen, strict=True):
        assert theirs.shape == ours.shape and len(ours) == len(images)
        steps, other = np.abs(theirs.astype(int) - ours)[same], (value / scale)[same]
        if steps.any():
            border = np.abs(np.abs(other - np.floor(other)) - 0.5)[steps > 0]
            assert steps.max() == 1 and border.max() < BORDER, f"{steps.max()} steps, {border.max():.1e} from a border"
        same &= ~np.array([(one != two).any() for one, two in zip(theirs.astype(int), ours, strict=True)])
    return same


@pytest.mark.parametrize(
    "dialect", [PLAIN, DIALECTS["onnxruntime"], DIALECTS["openvino"]], ids=["plain", "ort", "openvino"]
)
def test_a_quantized_network_is_its_graph_and_its_qdq_are_pt2e_s(
    fp32: tuple[Path, Images], dialect: Dialect, tmp_path: Path
) -> None:
    path, images = fp32
    calibration = CalibrationSet(images, np.zeros(len(images), np.int64))
    quantize_int8(path, tmp_path / "int8.onnx", calibration, QuantizeOptions(), dialect)
    proto = onnx.load(tmp_path / "int8.onnx")
    program = read_program(proto)
    expected, found = literal(tmp_path / "int8.onnx", images), compute(program, images)
    snr = snr_of_images(expected, found)
    exact = first_differences_lie_on_borders(proto, program, images)
    assert exact.any() and snr[exact].min() > 100 and snr.min() > 10, snr.round()
    written = Counter(node.op_type for node in proto.graph.node)
    ours = Counter(node.target for node in program.graph.nodes if node.op == "call_function")
    operators = torch.ops.quantized_decomposed
    constants = {value.name for value in proto.graph.initializer}
    activations = [
        node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in constants
    ]
    assert ours[operators.quantize_per_tensor.default] == written["QuantizeLinear"]
    assert ours[operators.dequantize_per_tensor.default] == len(activations)
    weights = ours[operators.dequantize_per_channel.default]
    assert 0 < weights <= written["DequantizeLinear"] - len(activations)


def test_products_with_constants_are_linear_layers_with_their_biases(small_onnx: Path) -> None:
    program = read_program(onnx.load(small_onnx / "fp32.onnx"))
    linear = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
    assert sum(len(node.args) == 3 for node in linear) >= 8, [node.args for node in linear]
    constants = {name for name, _ in program.named_buffers()}
    assert all(len(program.state_dict[name].shape) <= 4 for name in constants) and not program.constants


def test_a_graph_in_fp16_computes_in_fp16_with_its_pinned_nodes(
    small_onnx: Path, image_root: Path, tmp_path: Path
) -> None:
    spec = Preprocess(32, 32, 1.0, "bilinear", (0.286,) * 3, (0.353,) * 3)
    images = load_batch(list(read_split(image_root, "train").paths[:4]), spec)
    pinned = [layer.name for layer in performer_kernel(read_layers(onnx.load(small_onnx / "fp32.onnx")))]
    cast_fp16(small_onnx / "fp32.onnx", tmp_path / "fp16.onnx", CalibrationSet(images, np.zeros(4, np.int64)), pinned)
    module = read_module(onnx.load(tmp_path / "fp16.onnx"))
    dtypes = Counter(buffer.dtype for buffer in module.buffers())
    assert dtypes[torch.float16] > 20 and dtypes[torch.float32] > 0
    with torch.no_grad():
        found = module(torch.from_numpy(images)).double().numpy()
    assert snr_of_images(literal(small_onnx / "fp32.onnx", images), found).min() > 35
