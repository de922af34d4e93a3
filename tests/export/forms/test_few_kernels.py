"""The form for GPUs: equal to the exported form in float64, as exact on flat images, and left alone where quantized."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from calib.calibration import CalibrationSet
from calib.images import read_split
from calib.precision.policy import PolicyName, decide
from calib.preprocess import Preprocess, load_batch
from export.forms.few_kernels import MANY_CHANNELS, few_kernels, path_weights
from export.forms.heads_once import move_heads_once
from export.forms.single_head import halve_single_heads
from export.forms.token_nodes import Unrecognised, read_performer, read_soft_split, token_attentions
from export.graph.layers import count_precisions, read_layers
from export.graph.roles import QDQ
from export.onnx_export import CLASS_KEY, INPUT, MODULE_KEY, node_metadata
from export.quantize.int8 import QuantizeOptions, find_ranges, write_quantized
from models.t2t_vit import MINI_SPLITS

pytestmark = pytest.mark.slow

NAMES = ("t2t_vit_mini", "t2t_vit_t_mini")
FIRST, SECOND = (f"model.tokens_to_token.attention{number}" for number in (1, 2))


@pytest.fixture(scope="module")
def calibration(image_root: Path, spec: Preprocess) -> CalibrationSet:
    split = read_split(image_root, "val")
    return CalibrationSet(load_batch(list(split.paths), spec), np.asarray(split.labels))


@pytest.fixture(scope="module")
def graphs(small_onnx: Path, transformer_onnx: Path) -> dict[str, onnx.ModelProto]:
    return {
        name: onnx.load(folder / "fp32.onnx")
        for name, folder in zip(NAMES, (small_onnx, transformer_onnx), strict=True)
    }


def run(proto: onnx.ModelProto, images: np.ndarray, *tensors: str) -> list[np.ndarray]:
    """Tensors of the network, or its logits."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(tensors) or None, {INPUT: images})


def reference(proto: onnx.ModelProto, images: np.ndarray, tensor: str) -> np.ndarray:
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    copy.graph.output.append(onnx.ValueInfoProto(name=tensor))
    # only what the tensor needs: the reference is slow
    made = max(index for index, node in enumerate(copy.graph.node) if tensor in node.output)
    del copy.graph.node[made + 1 :], copy.graph.output[0]
    return ReferenceEvaluator(copy).run([tensor], {INPUT: images})[0]


def in_float64(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for value in copy.graph.initializer:
        if value.data_type == TensorProto.FLOAT:
            value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float64), value.name))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    for value in copy.graph.output:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del copy.graph.value_info[:]
    return copy


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_exported_form_in_float64(
    graphs: dict[str, onnx.ModelProto], calibration: CalibrationSet, name: str
) -> None:
    before = in_float64(graphs[name])
    after, rewritten = few_kernels(before)
    assert rewritten.modules == (FIRST, SECOND) and rewritten.skipped == ()
    images = calibration.first(2)
    # The second one's input has gone through LayerNormalizations, whose reference computes in float32.
    for module, allowed in ((FIRST, 1e-9), (SECOND, 1e-5)):
        soft_split = read_soft_split(before, module)
        wanted = {soft_split.result: allowed}
        if name == "t2t_vit_mini":  # the exported form holds log(ε·m/T) as a float32 number
            wanted[read_performer(before, soft_split).output] = max(allowed, 1e-7)
        for tensor, limit in wanted.items():
            ours, expected = (reference(proto, images, tensor) for proto in (after, before))
            difference = np.abs(ours[..., : expected.shape[-1]] - expected)  # without the ones behind the values
            told = f"{module} {tensor}: max {difference.max():.2e}, mean {difference.mean():.2e}"
            assert expected.dtype == np.float64 and difference.max() < limit, told


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_exported_form_on_onnxruntime(
    graphs: dict[str, onnx.ModelProto], calibration: CalibrationSet, name: str, batch: int
) -> None:
    after, _ = few_kernels(graphs[name])
    images = calibration.first(batch)
    difference = np.abs(run(graphs[name], images)[0] - run(after, images)[0])
    assert difference.max() < 2e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    convolutions = [node.op_type for node in after.graph.node].count("Conv")
    assert convolutions == 3, "one for each soft split"


@pytest.mark.parametrize("name", NAMES)
def test_flat_windows_give_the_bias(graphs: dict[str, onnx.ModelProto], name: str) -> None:
    """Nothing of an image's level is left, whatever the weights: rstd would multiply its rounding by 316."""
    soft_split = read_soft_split(graphs[name], FIRST)
    after, _ = few_kernels(graphs[name])
    y = run(after, np.full((1, 32, 32, 3), 251, np.uint8), soft_split.result)[0].reshape(8, 8, -1)[1:7, 1:7]
    y = y[..., : len(soft_split.bias)]  # without the ones behind the values
    difference = np.abs(y - soft_split.bias)
    assert difference.max() < 1e-10, f"max {difference.max():.2e}: more than the mean of three equal numbers is off by"


def test_nearly_flat_windows_are_as_exact_as_in_the_exported_form(graphs: dict[str, onnx.ModelProto]) -> None:
    before = graphs["t2t_vit_t_mini"]
    tensor = read_soft_split(before, FIRST).result
    images = np.full((1, 32, 32, 3), 250, np.uint8)
    images[0, 10:16, 12:18] += np.random.default_rng(0).integers(0, 4, (6, 6, 1), dtype=np.uint8)
    exact = reference(in_float64(before), images, tensor)
    ours, exported = (run(proto, images, tensor)[0] - exact for proto in (few_kernels(before)[0], before))
    assert np.abs(ours).max() < 4 * np.abs(exported).max() + 1e-6, (np.abs(ours).max(), np.abs(exported).max())
    naive = naive_error(before, images, exact)
    assert naive > 20 * np.abs(ours).max(), f"naive {naive:.2e}: this image would show nothing"


def naive_error(proto: onnx.ModelProto, images: np.ndarray, exact: np.ndarray) -> float:
    """Of conv(x, W'')·rstd + b with E[u²] − μ², in float32."""
    soft_split = read_soft_split(proto, FIRST)
    kernel = MINI_SPLITS[0].kernel
    x = torch.from_numpy(run(proto, images, soft_split.image)[0])
    weight = soft_split.inner + soft_split.between.reshape(-1, 1, kernel, kernel) / x.shape[1]
    windows = torch.nn.functional.unfold(x, kernel, padding=soft_split.padding, stride=soft_split.stride)
    variance = windows.square().mean(1, keepdim=True) - windows.mean(1, keepdim=True).square()
    y = torch.from_numpy(weight.reshape(len(weight), -1)).float() @ windows / (variance + soft_split.eps).sqrt()
    y = y.transpose(1, 2) + torch.from_numpy(soft_split.bias).float()
    return float(np.abs(y.numpy() - exact).max())


@pytest.mark.parametrize("kernel", [1, 3, 4, 7])
def test_paths_end_at_the_middle_pixel(kernel: int) -> None:
    weights, image = path_weights(kernel), np.random.default_rng(0).normal(size=(kernel + 1, kernel + 1))
    steps = np.stack((image[:-1, 1:] - image[:-1, :-1], image[1:, :-1] - image[:-1, :-1]))
    image = image[:-1, :-1]
    expected = (image - image[kernel // 2, kernel // 2]).reshape(-1)
    assert np.allclose(np.einsum("ichw,chw->i", weights, steps), expected, atol=1e-12)
    assert set(np.unique(weights)) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_nodes_outside_keep_their_names_and_new_ones_their_module(
    graphs: dict[str, onnx.ModelProto], name: str
) -> None:
    before, (after, _) = graphs[name], few_kernels(graphs[name])
    old = {node.name: node for node in before.graph.node}
    names = [node.name for node in after.graph.node]
    assert len(set(names)) == len(names)
    kind = "TokenPerformer" if name == "t2t_vit_mini" else "TokenTransformer"
    new = [node for node in after.graph.node if "_few_" in node.name]
    assert {(node_metadata(node, MODULE_KEY), node_metadata(node, CLASS_KEY).split()[-1]) for node in new} == {
        (FIRST, kind),
        (SECOND, kind),
    }
    for layer in read_layers(before):
        if layer.operator in ("Gemm", "LayerNormalization") or layer.module.startswith("blocks."):
            assert layer.name in names and old[layer.name].op_type == layer.operator
    assert [layer.module for layer in read_layers(after) if layer.operator == "Gemm"] == ["head"]


def test_the_few_channels_of_an_image_and_the_many_of_tokens(graphs: dict[str, onnx.ModelProto]) -> None:
    after, _ = few_kernels(graphs["t2t_vit_t_mini"])
    constants = {value.name: list(value.dims) for value in after.graph.initializer}
    shapes = [constants[node.input[1]] for node in after.graph.node if node.op_type == "Conv"]
    assert 3 < MANY_CHANNELS <= 64
    assert shapes[:2] == [[192 + 1 + 49, 3 + 3, 7, 7], [192 + 2, 64 + 2, 3, 3]]


def quantized(proto: onnx.ModelProto, calibration: CalibrationSet, policy: PolicyName) -> onnx.ModelProto:
    found = find_ranges(proto, decide(read_layers(proto), policy), calibration, QuantizeOptions(policy=policy))
    return write_quantized(proto, found, weights="on grid")


def test_a_quantized_token_attention_is_left_alone(
    graphs: dict[str, onnx.ModelProto], calibration: CalibrationSet
) -> None:
    before = quantized(graphs["t2t_vit_mini"], calibration, "full")
    after, rewritten = few_kernels(before)
    assert rewritten.modules == () and [module for module, _ in rewritten.skipped] == [FIRST, SECOND]
    assert all("nodes look like its" in reason for _, reason in rewritten.skipped)
    assert not any("_few_" in node.name for node in after.graph.node)


def test_what_was_changed_by_others_is_not_recognised(graphs: dict[str, onnx.ModelProto]) -> None:
    proto = onnx.ModelProto.FromString(graphs["t2t_vit_mini"].SerializeToString())
    soft_split = read_soft_split(proto, FIRST)
    proto.graph.output.extend([onnx.ValueInfoProto(name=soft_split.image)])
    assert token_attentions(proto) == [(FIRST, "TokenPerformer"), (SECOND, "TokenPerformer")]
    log_epsilon = next(v for v in proto.graph.initializer if not v.dims and np.isclose(numpy_helper.to_array(v), -19.1, atol=0.1))  # fmt: skip  # noqa: E501
    log_epsilon.CopyFrom(numpy_helper.from_array(np.float32(-5).reshape(()), log_epsilon.name))
    with pytest.raises(Unrecognised, match="its epsilon"):
        read_performer(proto, soft_split)


@pytest.mark.parametrize("policy", [None, "weights", "+attention"])
@pytest.mark.parametrize("batch", [1, 3])
def test_two_heads_for_one_are_the_same_attention(
    graphs: dict[str, onnx.ModelProto], calibration: CalibrationSet, batch: int, policy: PolicyName | None
) -> None:
    graph = graphs["t2t_vit_t_mini"]
    before = graph if policy is None else quantized(graph, calibration, policy)
    proto = onnx.ModelProto.FromString(before.SerializeToString())
    done = halve_single_heads(proto)
    onnx.checker.check_model(proto, full_check=True)
    layers = {layer.name: layer for layer in read_layers(proto)}
    assert [layers[name].module for name in done] == [
        f"{module.removeprefix('model.')}.attn" for module in (FIRST, SECOND)
    ]
    assert count_precisions(proto) == count_precisions(before), "Q/DQ stay beside the products"
    makers = {output: node for node in proto.graph.node for output in node.output}
    products = [node for node in proto.graph.node if node.name in done]
    assert all((makers[node.input[0]].op_type in QDQ) == (policy == "+attention") for node in products)
    images = calibration.first(batch)
    difference = np.abs(run(before, images)[0] - run(proto, images)[0])
    assert difference.max() < 1e-5, f"max {difference.max():.2e}"
    assert halve_single_heads(proto) == [], "two heads are enough"


@pytest.mark.parametrize("policy", ["weights", "+attention"])
def test_heads_of_a_quantized_qkv_move_once(
    graphs: dict[str, onnx.ModelProto], calibration: CalibrationSet, policy: PolicyName
) -> None:
    before = quantized(graphs["t2t_vit_mini"], calibration, policy)
    after = onnx.ModelProto.FromString(before.SerializeToString())
    assert len(move_heads_once(after)) == 4, "one for each block"
    onnx.checker.check_model(after, full_check=True)
    images = calibration.first(3)
    difference = np.abs(run(before, images)[0] - run(after, images)[0])
    assert difference.max() < 1e-5, f"max {difference.max():.2e}"
    splits = [node for node in after.graph.node if "_heads_" in node.name and node.op_type == "Split"]
    assert [len(node.output) for node in splits] == [3] * 4
    assert move_heads_once(after) == []
    assert move_heads_once(onnx.ModelProto.FromString(graphs["t2t_vit_mini"].SerializeToString())) == [], "not in FP32"
