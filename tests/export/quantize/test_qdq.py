"""Q/DQ: the same scales and results as nvidia-modelopt where both can, ranges against brute force, each policy's layers."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from calib.calibration import CalibrationSet
from calib.errors import InputError
from calib.images import read_split
from calib.precision.policy import Decision, Kind, Layer, PolicyName, cover, decide, performer_kernel
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend
from export.graph.layers import count_precisions, read_layers
from export.graph.taps import Tap, write_tapped
from export.onnx_export import INPUT, OUTPUT
from export.quantize import int8 as quantize_int8_file
from export.quantize.cast_fp16 import cast_fp16
from export.quantize.histogram import BINS
from export.quantize.int8 import (
    QuantizeOptions,
    activations,
    apply_policy,
    find_ranges,
    leave_out_faint,
    quantize_int8,
    write_quantized,
)
from export.quantize.qdq import FP16_NORMAL, Weights, insert_qdq, to_fp8, weight_range
from export.quantize.ranges import STRIDE, Range, RangeMethod, collect_ranges

pytestmark = pytest.mark.slow

CLASSES = ["class_0", "class_1", "class_2"]
BLOCKS = 4  # of t2t_vit_mini


@pytest.fixture(scope="module")
def calibration(image_root: Path, spec: Preprocess) -> CalibrationSet:
    split = read_split(image_root, "train")
    return CalibrationSet(load_batch(list(split.paths), spec), np.asarray(split.labels))


@pytest.fixture(scope="module")
def fp32(small_onnx: Path) -> Path:
    return small_onnx / "fp32.onnx"


def logits(path: Path, images: NDArray[np.uint8], *, literal: bool = False) -> NDArray[np.float32]:
    with onnxruntime_backend.load(path, 2, literal=literal) as runner:
        return np.asarray(runner.infer({INPUT: images})[OUTPUT])


def scales(proto: onnx.ModelProto) -> dict[tuple[str, int], NDArray[np.float32]]:
    """The scale in front of each input of each product, by the product's name and the input's index."""
    makers = {node.output[0]: node for node in proto.graph.node}
    constants = {value.name: numpy_helper.to_array(value) for value in proto.graph.initializer}
    return {
        (node.name, index): np.atleast_1d(constants[makers[name].input[1]])
        for node in proto.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        for index, name in enumerate(node.input[:2])
        if name in makers and makers[name].op_type == "DequantizeLinear"
    }


def test_max_is_what_modelopt_makes_of_the_same_layers(fp32: Path, calibration: CalibrationSet, tmp_path: Path) -> None:
    from modelopt.onnx.quantization import quantize

    found = quantize_int8(fp32, tmp_path / "ours.onnx", calibration)
    wanted = [decision.layer.name for decision in found.decisions if decision.int8]
    quantize(
        str(fp32), quantize_mode="int8", calibration_data={INPUT: calibration.images}, calibration_method="max",
        calibration_eps=["cpu"], op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        nodes_to_quantize=[f"^{name}$" for name in wanted], high_precision_dtype="fp32",
        output_path=str(tmp_path / "theirs.onnx"), log_level="ERROR",
    )  # fmt: skip
    ours, theirs = (scales(onnx.load(tmp_path / f"{name}.onnx")) for name in ("ours", "theirs"))
    assert set(ours) == set(theirs) and len(ours) == 2 * len(wanted)
    for place, scale in ours.items():
        np.testing.assert_allclose(scale, theirs[place], rtol=1e-5, err_msg=str(place))
    first, second = (logits(tmp_path / f"{name}.onnx", calibration.images) for name in ("ours", "theirs"))
    difference = np.abs(first - second)
    assert difference.max() < 0.05 * np.abs(second).max(), f"max {difference.max():.3g}, mean {difference.mean():.3g}"
    assert (tmp_path / "ours.onnx").stat().st_size < 0.5 * (tmp_path / "theirs.onnx").stat().st_size


def one_product(weight: NDArray[np.float32]) -> tuple[onnx.ModelProto, Layer]:
    """The graph y = x · `weight` (inputs, outputs), and its layer, `product`."""
    inputs, outputs = weight.shape
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "one",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", inputs])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", outputs])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    (layer,) = read_layers(proto)
    return proto, layer


@pytest.mark.parametrize("weights", get_args(Weights))
def test_a_layer_computes_round_half_to_even_on_its_grid(weights: Weights) -> None:
    """One MatMul against numpy: activations on 127 steps of their range, weights on 127 of each channel's."""
    generator = np.random.default_rng(0)
    x, weight = generator.normal(size=(5, 32)).astype(np.float32), generator.normal(size=(32, 16)).astype(np.float32)
    weight[:, 3] = 0  # a dead channel has no range
    proto, layer = one_product(weight)
    amax = 2.0  # some values saturate
    quantized = insert_qdq(proto, [Decision(layer, "", (0, 1))], {"x": amax}, weights=weights)
    onnx.checker.check_model(quantized, full_check=True)
    (y,) = ReferenceEvaluator(quantized).run(None, {"x": x})
    x_scale, w_scale = amax / 127, np.where(np.abs(weight).max(0) > 0, np.abs(weight).max(0) / 127, 1)
    x_grid = np.clip(np.rint(x / x_scale), -128, 127) * x_scale
    w_grid = np.rint(weight / w_scale) * w_scale
    np.testing.assert_allclose(y, x_grid @ w_grid, rtol=1e-4, atol=1e-5)
    assert (np.abs(x) > amax).any() and (y[:, 3] == 0).all()


def test_the_smallest_weights_have_all_their_steps() -> None:
    """A first convolution has 1/std of the pixels in its weights, a folded BatchNorm any factor. And FP16 holds every scale."""
    amax = np.array([1, 1e-2, 7e-3, 2e-3, 4e-4, 1e-4, 1e-5, 0], np.float32)
    weight = (np.random.default_rng(0).uniform(-1, 1, size=(256, 8)) * amax).astype(np.float32)
    weight[0] = amax
    proto, layer = one_product(weight)
    quantized = insert_qdq(proto, [Decision(layer, "", (0, 1))], {"x": 1.0})
    stored = {value.name: numpy_helper.to_array(value) for value in quantized.graph.initializer}
    scale, steps = stored["product_weight_scale"], stored["product_weight_quantized"].astype(np.float32)
    # The scale is rounded up, by at most one multiple of 2^-24.
    assert (np.abs(steps).max(0) >= [127, 127, 126, 126, 125, 118, 83, 0]).all()
    assert (np.abs(steps * scale - weight).max(0) <= scale * 0.501).all()
    half = scale.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(half, scale, rtol=2**-11)
    assert (half == scale)[scale < FP16_NORMAL].all() and (half > 0).all()


@pytest.mark.parametrize(("bits", "steps"), [(8, 127), (4, 7)])
def test_weights_use_the_whole_grid(fp32: Path, calibration: CalibrationSet, bits: int, steps: int) -> None:
    proto = onnx.load(fp32)
    found = find_ranges(proto, decide(read_layers(proto)), calibration, QuantizeOptions())
    quantized = write_quantized(proto, found, weight_bits=bits)
    stored = [
        numpy_helper.to_array(value) for value in quantized.graph.initializer if value.name.endswith("weight_quantized")
    ]
    assert len(stored) == sum(decision.int8 for decision in found.decisions)
    assert all(array.dtype == np.int8 and np.abs(array).max() == steps for array in stored)


@pytest.mark.parametrize("axis", [0, 1])
def test_four_bit_weights_have_the_range_of_least_error(axis: int) -> None:
    """Against every hundredth of the largest weight, channel by channel; at 8 bits it is the largest weight itself."""
    weight = np.random.default_rng(0).normal(size=(24, 40)).astype(np.float32)
    weight[3 if axis == 0 else slice(None), 3 if axis == 1 else slice(None)] = 0  # a dead channel
    channels = np.moveaxis(weight, axis, 0)
    highest = np.abs(channels).max(1)

    def squared(values: NDArray[np.float32], amax: float) -> float:
        return float(np.square(np.clip(np.rint(values / (amax / 7)), -7, 7) * amax / 7 - values).sum())

    found = weight_range(weight, axis, 4)
    assert found[3] == 0 and (weight_range(weight, axis, 8) == highest).all()
    for values, amax, largest in (row for row in zip(channels, found, highest, strict=True) if row[2] > 0):
        best = min(squared(values, share * largest) for share in np.arange(0.2, 1.01, 0.01))
        assert squared(values, amax) < 1.1 * best and squared(values, amax) <= squared(values, largest)
    assert (found < 0.95 * highest).sum() > 10, "this test shows nothing"


@pytest.mark.parametrize(
    ("policy", "attention", "residual", "outputs"),
    [("weights", 0, 0, 0), ("+attention", 2 * BLOCKS, 0, BLOCKS), ("+residual", 0, 2 * BLOCKS, 0)],
)
def test_each_policy_takes_its_layers(
    fp32: Path, policy: PolicyName, attention: int, residual: int, outputs: int
) -> None:
    taken = [decision for decision in decide(read_layers(onnx.load(fp32)), policy) if decision.int8]
    assert sum(bool(decision.layer.weight_shape) for decision in taken) == 4 * BLOCKS + 2 * 3 + 1
    assert sum(decision.layer.role in ("scores", "context") for decision in taken) == attention
    assert sum(decision.layer.role == "residual" for decision in taken) == residual
    assert sum(decision.output for decision in taken) == outputs
    assert not any(decision.layer.kernel for decision in taken)


def test_full_takes_everything(fp32: Path) -> None:
    layers = read_layers(onnx.load(fp32))
    taken = decide(layers, "full")
    assert all(decision.int8 for decision in taken) and any(decision.layer.kernel for decision in taken)
    assert {d.layer.name for d in taken} == {
        layer.name for layer in layers if layer.operator in ("Conv", "Gemm", "MatMul") or layer.role
    }


def test_residual_is_what_went_around_the_branch(fp32: Path) -> None:
    proto = onnx.load(fp32)
    decisions = [d for d in decide(read_layers(proto), "+residual") if d.layer.role == "residual" and d.int8]
    users = {
        name: [n.op_type for n in proto.graph.node if name in n.input] for n in proto.graph.node for name in n.output
    }
    for names in activations(proto, decisions).values():
        assert "LayerNormalization" in users[names[0]], "the stream also feeds the norm of the branch"


def test_a_faint_activation_is_left_out(fp32: Path, calibration: CalibrationSet) -> None:
    """Its scale would be 0 in an FP16 graph, which TensorRT refuses."""
    proto = onnx.load(fp32)
    found = find_ranges(proto, decide(read_layers(proto)), calibration, QuantizeOptions())
    name, tensor = next((name, group[0]) for name, group in found.tensors.items())
    for amax, told in ((0.0, "is always zero"), (1e-6, "stays under 1e-06")):
        ranges = found.ranges | {tensor: replace(found.ranges[tensor], amax=amax)}
        left = leave_out_faint(found.decisions, found.tensors, ranges).decisions
        (decision,) = [decision for decision in left if decision.layer.name == name]
        assert not decision.int8 and told in decision.reason
        assert sum(d.int8 for d in found.decisions) - sum(d.int8 for d in left) == 1


def test_an_attention_is_quantized_whole_or_not_at_all(fp32: Path, calibration: CalibrationSet) -> None:
    """Engines fuse no attention of which one product is in INT8."""
    proto = onnx.load(fp32)
    found = find_ranges(proto, decide(read_layers(proto), "+attention"), calibration, QuantizeOptions("+attention"))
    (context,) = [d for d in found.decisions if d.layer.role == "context" and d.layer.module == "blocks.1.attn"]
    softmax = found.tensors[context.layer.name][0]
    ranges = found.ranges | {softmax: replace(found.ranges[softmax], amax=0.005)}  # of 197 tokens that count the same
    left = leave_out_faint(found.decisions, found.tensors, ranges).decisions
    told = [(d.layer.module, d.layer.role, d.reason) for d, was in zip(left, found.decisions, strict=True) if d != was]
    assert [(module, role) for module, role, _ in told] == [("blocks.1.attn", "scores"), ("blocks.1.attn", "context")]
    assert told[0][2] == "the other product of its attention is left out" and "too small for a scale" in told[1][2]


def test_include_and_exclude_overrule(fp32: Path) -> None:
    layers = read_layers(onnx.load(fp32))
    decided = decide(layers, include=["head", r"blocks\.0\.attn"], exclude=[r"blocks\.\d+\.mlp\.fc2"])
    taken = [d.layer for d in decided if d.int8]
    assert "head" in [layer.module for layer in taken]
    assert [layer.role for layer in taken if layer.module == "blocks.0.attn"] == ["scores", "context"]
    assert not any(layer.module.endswith("fc2") for layer in taken)
    with pytest.raises(InputError, match="names no layer") as error:
        decide(layers, exclude=[r"blocks\.9.*"])
    assert r"blocks\.9" in str(error.value) and "--explain" in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "near"),
    [(r"blocks\.0\.mpl\.fc1", "blocks.0.mlp.fc1"), (r"blocks\.\d+\.atn.*", "blocks.0.attn"), ("haed", "head")],
)
def test_a_misspelt_pattern_is_told_what_is_near(fp32: Path, pattern: str, near: str) -> None:
    """And no command that runs into the same error: the pattern must go first."""
    with pytest.raises(InputError) as error:
        decide(read_layers(onnx.load(fp32)), include=[pattern])
    assert f"near it: {near}" in str(error.value) and "remove it first, then" in str(error.value)


def test_a_policy_that_finds_nothing_is_an_error(fp32: Path) -> None:
    layers = [layer for layer in read_layers(onnx.load(fp32)) if not layer.role]
    with pytest.raises(InputError, match="quantizes no attention product"):
        decide(layers, "+attention")
    for policy in get_args(PolicyName):
        with pytest.raises(InputError, match=f"policy {re.escape(policy)} quantizes no weight layer"):
            decide(layers, policy, exclude=[".*"])
    assert decide(layers, "full"), "no attention to quantize is no error: full names all that is there"


def test_what_a_policy_names_and_leaves_is_counted(fp32: Path) -> None:
    """One attention of four can be fused: the policy takes it, and says so of the others."""
    layers = [
        replace(layer, head_dim=8) if layer.role in ("scores", "context") and "blocks.0." not in layer.module else layer
        for layer in read_layers(onnx.load(fp32))
    ]
    weights, attention = cover("+attention", decide(layers, "+attention"))
    assert (attention.kind, attention.quantized, attention.named) == ("attention product", 2, 2 * BLOCKS)
    ((reason, count),) = attention.left_out.items()
    assert reason.startswith("head dim 8") and count == 2 * (BLOCKS - 1)
    assert str(attention).startswith(
        f"2 of the {2 * BLOCKS} attention products that the policy names, because: head dim 8"
    )
    assert weights.quantized == 4 * BLOCKS + 2 * 3 + 1 == weights.named - sum(weights.left_out.values())
    kinds = {row.kind: (row.quantized, row.named) for row in cover("full", decide(layers, "full"))}
    assert list(kinds) == list(get_args(Kind)) and all(taken == named > 0 for taken, named in kinds.values())


@pytest.mark.parametrize("policy", ["+attention", "full"])
def test_a_kind_that_calibration_leaves_out_is_an_error(
    fp32: Path, calibration: CalibrationSet, policy: PolicyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One faint softmax is left out with its attention; all of them, and the policy's name would be wrong."""
    proto, faint = onnx.load(fp32), 1
    softmax = {
        node.input[0] for layer in read_layers(proto) if layer.role == "context"
        for node in proto.graph.node if node.name == layer.name
    }  # fmt: skip

    def fainter(*arguments: Any) -> dict[str, Range]:
        found = collect_ranges(*arguments)
        return found | {name: replace(found[name], amax=1e-6) for name in sorted(softmax)[:faint]}

    monkeypatch.setattr(quantize_int8_file, "collect_ranges", fainter)
    kept = apply_policy(proto, calibration, QuantizeOptions(policy)).decisions
    row = next(row for row in cover(policy, kept) if row.kind == "attention product")
    assert row.quantized == row.named - 2 and any("too small for a scale" in reason for reason in row.left_out)
    faint = len(softmax)
    with pytest.raises(InputError, match=r"quantizes no attention product of this network any more(?s:.)*too small"):
        apply_policy(proto, calibration, QuantizeOptions(policy))


@pytest.mark.parametrize("policy", ["weights", "+attention", "+residual", "full"])
def test_every_policy_runs_and_is_near(
    fp32: Path, calibration: CalibrationSet, tmp_path: Path, policy: PolicyName
) -> None:
    quantize_int8(fp32, tmp_path / "int8.onnx", calibration, QuantizeOptions(policy))
    ours, reference = (logits(path, calibration.images) for path in (tmp_path / "int8.onnx", fp32))
    error = float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
    assert 1e-6 < error < 0.3, f"relative error {error:.3f}"


def test_fp8_in_fp16_keeps_its_type(fp32: Path, calibration: CalibrationSet, tmp_path: Path) -> None:
    proto = onnx.load(fp32)
    found = find_ranges(proto, decide(read_layers(proto)), calibration, QuantizeOptions())
    int8 = write_quantized(proto, found, weights="as they are")
    onnx.save(int8, tmp_path / "int8.onnx")
    onnx.save(to_fp8(int8), tmp_path / "fp8.onnx")
    pinned = [layer.name for layer in performer_kernel(read_layers(proto))]
    cast_fp16(tmp_path / "int8.onnx", tmp_path / "int8-fp16.onnx", calibration, pinned)
    onnx.save(to_fp8(onnx.load(tmp_path / "int8-fp16.onnx")), tmp_path / "fp8-fp16.onnx")
    for name in ("fp8", "fp8-fp16"):
        onnx.checker.check_model(tmp_path / f"{name}.onnx", full_check=True)
        assert (
            count_precisions(onnx.load(tmp_path / f"{name}.onnx"))["fp8"]
            == sum(decision.int8 for decision in found.decisions)
            > 20
        )
    ours, reference = (logits(path, calibration.images, literal=True) for path in (tmp_path / "fp8.onnx", fp32))
    assert 1e-4 < np.linalg.norm(ours - reference) / np.linalg.norm(reference) < 0.2
    with pytest.raises(ValueError, match="stored as INT8"):
        to_fp8(write_quantized(proto, found))


@pytest.mark.parametrize("method", ["max", "entropy", "percentile", "mse"])
def test_ranges_are_those_of_all_images(fp32: Path, calibration: CalibrationSet, method: RangeMethod) -> None:
    """Whatever the batches are; and a threshold leaves out the share that it says."""
    proto, images = onnx.load(fp32), calibration.images
    tensor = next(node.output[0] for node in proto.graph.node if node.op_type == "Gelu")
    whole = collect_ranges(proto, [tensor], [images], method, 99.0)[tensor]
    parts = collect_ranges(proto, [tensor], [images[5:], images[:5]], method, 99.0)[tensor]
    assert whole.low == pytest.approx(parts.low) and whole.high == pytest.approx(parts.high)
    assert parts.amax == pytest.approx(whole.amax, rel=2e-3)  # ONNX Runtime's sums differ with the batch's size
    assert (whole.amax == whole.high and whole.saturated == 0) == (method == "max")
    if method == "percentile":
        assert whole.saturated == pytest.approx(0.01, abs=0.002)


def test_entropy_and_percentile_are_modelopts(fp32: Path, calibration: CalibrationSet) -> None:
    """What modelopt's calibrator chooses where it is given all values at once, which are taken from the graph by other code."""
    from modelopt.torch.quantization.calib import HistogramCalibrator

    proto, images = onnx.load(fp32), calibration.images
    maker = next(node for node in proto.graph.node if node.op_type == "LayerNormalization")
    tensor, path = maker.output[0], fp32.with_name("tapped.onnx")
    shape = next(info for info in onnx.shape_inference.infer_shapes(proto).graph.value_info if info.name == tensor)
    sizes = tuple(dim.dim_value for dim in shape.type.tensor_type.shape.dim[1:])
    names = write_tapped(fp32, path, [Tap("norm", maker.name, 0, sizes)])
    with onnxruntime_backend.load(path, 2) as runner:
        values = runner.infer({INPUT: images})[names["norm"]]
    highest = float(np.abs(values).max())
    modelopts = HistogramCalibrator()
    modelopts.collect(torch.from_numpy(values))
    batches = [images[:3], images[3:]]
    assert collect_ranges(proto, [tensor], batches, "max")[tensor].amax == pytest.approx(highest)
    percentile = collect_ranges(proto, [tensor], batches, "percentile", 99.0)[tensor].amax
    expected = float(modelopts.compute_amax("percentile", percentile=99.0))
    assert percentile == pytest.approx(expected, abs=1.01 * highest / BINS)
    assert percentile == pytest.approx(float(np.quantile(np.abs(values), 0.99)), abs=2.01 * highest / BINS)
    entropy = collect_ranges(proto, [tensor], batches, "entropy")[tensor].amax
    expected = float(modelopts.compute_amax("entropy", stride=STRIDE))
    assert entropy == pytest.approx(expected, abs=1.01 * STRIDE * highest / BINS)
