"""SmoothQuant: what may be folded, the same function after it, modelopt's scales, and the sweep."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from calib.errors import InputError
from calib.images import read_split
from calib.precision.smoothing import (
    LARGEST,
    SMALLEST,
    layer_error,
    logits_distance,
    quantize_dequantize,
    smoothing_scale,
)
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend
from export.forms.folds import Fold, find_folds
from export.graph.layers import read_layers
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.smooth import (
    NONE,
    PER_LAYER,
    Candidate,
    apply_smoothing,
    collect_channels,
    fold_scale,
    read_plan,
    smooth_onnx,
    sweep_alpha,
)
from export.simplify import simplify_onnx

pytestmark = pytest.mark.slow

HEADS, TOKENS, WIDTH = 2, 3, 8
CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def images(image_root: Path, spec: Preprocess) -> np.ndarray:
    return load_batch(list(read_split(image_root, "val").paths)[:12], spec)


@pytest.fixture(scope="module")
def t2t(small_onnx: Path) -> Path:
    return small_onnx / "fp32.onnx"


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    """Two blocks of a timm ViT, whose attention is written in another way than ours, with channels of uneven size."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3).eval()
    for block in model.blocks:
        for norm in (block.norm1, block.norm2):
            norm.weight.data.mul_(torch.exp(torch.randn(192)))
            norm.bias.data.add_(0.3 * torch.randn(192))
        block.attn.qkv.bias.data.add_(0.2 * torch.randn(576))
    return model


@pytest.fixture(scope="module")
def vit_graph(
    vit: torch.nn.Module, spec: Preprocess, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return export(vit, spec, images, tmp_path_factory.mktemp("vit"))


def export(model: torch.nn.Module, spec: Preprocess, images: np.ndarray, folder: Path) -> Path:
    export_onnx(model, spec, CLASSES, folder / "raw.onnx")
    assert simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", images[:2]).accepted
    return folder / "fp32.onnx"


def run(path: Path, batch: np.ndarray, *, literal: bool = False) -> np.ndarray:
    with onnxruntime_backend.load(path, 1, literal=literal) as runner:
        return runner.infer({INPUT: batch})[OUTPUT]


def modules(proto: onnx.ModelProto, folds: list[Fold]) -> list[tuple[str, str]]:
    """(kind, the consumers' module) of every fold."""
    of = {layer.name: layer.module for layer in read_layers(proto)}
    return [(fold.kind, " ".join(of[consumer.weight.node] for consumer in fold.consumers)) for fold in folds]


# What can be folded


def test_t2t_folds_norms_and_values_but_not_the_token_attentions_values(t2t: Path) -> None:
    """There the values are the skip connection as well; fc2 is behind a GELU, and the soft split has no norm left."""
    proto = onnx.load(t2t)
    expected = [("affine", f"tokens_to_token.attention{i}.mlp.0") for i in (1, 2)]
    for block in range(4):
        expected += [
            ("affine", f"blocks.{block}.attn.qkv"), ("linear", f"blocks.{block}.attn.proj"),
            ("affine", f"blocks.{block}.mlp.fc1"),
        ]  # fmt: skip
    folds = find_folds(proto)
    assert modules(proto, folds) == [*expected, ("affine", "head")]
    values = [fold for fold in folds if fold.kind == "linear"]
    assert all(fold.free.tolist() == [False] * 384 + [True] * 192 for fold in values), "the last third is V"
    assert all((fold.consumers[0].labels == np.arange(384, 576)).all() for fold in values)


def graph(body: str, constants: dict[str, tuple[int, ...]], integers: dict[str, int | list[int]]) -> onnx.ModelProto:
    """A graph from ONNX's text form, images (N, TOKENS, WIDTH) → logits, with random constants."""
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 20]> g (float[N,{TOKENS},{WIDTH}] {INPUT}) => (float[N,L] {OUTPUT})'
        f"{{ {body} {OUTPUT} = ReduceSum <keepdims=0> (y, axes) }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in constants.items():
        uneven = np.exp(rng.standard_normal(shape)) * rng.choice([-1, 1], shape)
        proto.graph.initializer.append(numpy_helper.from_array(uneven.astype(np.float32), name))
    given: dict[str, int | list[int]] = {"axes": [1], **integers}
    for name, values in given.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index:05d}"
    onnx.checker.check_model(proto, full_check=True)
    return proto


NORM = f"n = LayerNormalization <axis=-1> ({INPUT}, gamma, beta) "
GAMMA = {"gamma": (WIDTH,), "beta": (WIDTH,)}
SQUARE = {"w": (WIDTH, WIDTH)}
VALUES = f"""
    qkv = MatMul ({INPUT}, w3)  qkv_b = Add (b3, qkv)
    q, k, v = Split <axis=2, num_outputs=3> (qkv_b)
    q4 = Reshape (q, heads)  k4 = Reshape (k, heads)  v4 = Reshape (v, heads)
    qh = Transpose <perm=[0,2,1,3]> (q4)  kh = Transpose <perm=[0,2,3,1]> (k4)  vh = Transpose <perm=[0,2,1,3]> (v4)
    s = MatMul (qh, kh)  p = Softmax (s)  c = MatMul (p, vh)
    ct = Transpose <perm=[0,2,1,3]> (c)  flat = Reshape (ct, merged)  o = MatMul (flat, w)
"""
ATTENTION = {"w3": (WIDTH, 3 * WIDTH), "b3": (3 * WIDTH,), **SQUARE}
HEADED: dict[str, int | list[int]] = {"heads": [0, TOKENS, HEADS, WIDTH // HEADS], "merged": [0, TOKENS, WIDTH]}

FOLDABLE: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, int | list[int]], list[tuple[str, int]]]] = {
    "norm": (NORM + "y = MatMul (n, w)", GAMMA | SQUARE, {}, [("affine", WIDTH)]),
    "norm without bias": (
        f"n = LayerNormalization <axis=-1> ({INPUT}, gamma) y = MatMul (n, w)", {"gamma": (WIDTH,)} | SQUARE, {},
        [("affine", WIDTH)],
    ),
    "root mean square norm": (
        f"n = Mul (gamma, {INPUT}) y = MatMul (n, w)", {"gamma": (WIDTH,)} | SQUARE, {}, [("affine", WIDTH)],
    ),
    "scale and shift": (
        f"m = Mul ({INPUT}, gamma) n = Add (m, beta) y = MatMul (n, w)", GAMMA | SQUARE, {}, [("affine", WIDTH)],
    ),
    "two readers of one weight": (
        NORM + "a = MatMul (n, w) b = MatMul (n, w) r = Relu (b) y = Add (a, r)", GAMMA | SQUARE, {}, [("affine", WIDTH)],
    ),
    "one gamma of two norms": (
        NORM + f"m = LayerNormalization <axis=-1, epsilon=0.1> ({INPUT}, gamma, beta) a = MatMul (n, w) y = Add (a, m)",
        GAMMA | SQUARE, {}, [("affine", WIDTH)],
    ),
    "one token, Gemm": (
        NORM + "t = Gather <axis=1> (n, first) h = Gemm <transB=1, alpha=0.5> (t, w, beta) y = Unsqueeze (h, axes)",
        GAMMA | SQUARE, {"first": 0}, [("affine", WIDTH)],
    ),
    "all tokens in a row": (
        NORM + "f = Flatten <axis=1> (n) h = Gemm <transB=1> (f, wide) y = Unsqueeze (h, axes)",
        GAMMA | {"wide": (5, TOKENS * WIDTH)}, {}, [("affine", WIDTH)],
    ),
    "a channel read twice, another never": (
        NORM + "g = Gather <axis=2> (n, twice) y = MatMul (g, w)", GAMMA | {"w": (4, WIDTH)}, {"twice": [0, 0, 3, 5]},
        [("affine", WIDTH)],
    ),
    "a channel read otherwise too": (
        NORM + "a, b = Split <axis=2, num_outputs=2> (n) r = Relu (a) t = ReduceSum (r, last) l = MatMul (n, w) y = Add (l, t)",
        GAMMA | {"w": (WIDTH, 1)}, {"last": [2]}, [("affine", WIDTH // 2)],
    ),
    "values": (VALUES + "y = Add (o, k)", ATTENTION, HEADED, [("linear", WIDTH)]),
    "values that are the skip connection": (VALUES + "y = Add (o, v)", ATTENTION, HEADED, []),
    "values through a Relu": (
        VALUES.replace("(p, vh)", "(p, vr)").replace("s = ", "vr = Relu (vh) s = ") + "y = Identity (o)", ATTENTION, HEADED, [],
    ),
    "a residual reads the norm": (NORM + "a = MatMul (n, w) y = Add (a, n)", GAMMA | SQUARE, {}, []),
    "channels on another axis": (
        NORM + "t = Transpose <perm=[0,2,1]> (n) y = MatMul (t, w)", GAMMA | {"w": (TOKENS, 4)}, {}, [],
    ),
    "rows of several channels": (
        f"n = Mul ({INPUT}, gamma) t = Transpose <perm=[0,2,1]> (n) y = MatMul (half, t)",
        {"gamma": (WIDTH,), "half": (2, WIDTH)}, {}, [],
    ),
    "a product with what is no constant": (
        NORM + f"t = Transpose <perm=[0,2,1]> ({INPUT}) y = MatMul (n, t)", GAMMA, {}, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDABLE)
def test_folds_and_the_function_after_them(case: str, tmp_path: Path) -> None:
    body, constants, integers, expected = FOLDABLE[case]
    proto = graph(body, constants, integers)
    folds = find_folds(proto)
    assert [(fold.kind, int(fold.free.sum())) for fold in folds] == expected
    if not folds:
        return
    onnx.save(proto, tmp_path / "source.onnx")
    batch = np.random.default_rng(1).standard_normal((4, TOKENS, WIDTH)).astype(np.float32)
    smoothing = smooth_onnx(tmp_path / "source.onnx", tmp_path / "smooth.onnx", [batch], 0.5)
    assert all(np.ptp(layer.scale) > 0.1 for layer in smoothing.layers), "nothing was scaled"
    before, after = run(tmp_path / "source.onnx", batch), run(tmp_path / "smooth.onnx", batch)
    difference = np.abs(before - after) / np.abs(before).max()
    assert difference.max() < 2e-6, f"max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_what_the_graph_gives_out_is_not_scaled() -> None:
    proto = graph(NORM + "y = MatMul (n, w)", GAMMA | SQUARE, {})
    assert len(find_folds(proto)) == 1
    proto.graph.output.append(helper.make_tensor_value_info("n", TensorProto.FLOAT, None))
    assert find_folds(proto) == []


# The same function on real networks


def as_float64(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in double precision, for ONNX's reference implementation."""
    double = onnx.ModelProto()
    double.CopyFrom(proto)
    del double.graph.value_info[:]
    for initializer in double.graph.initializer:
        if initializer.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(initializer).astype(np.float64)
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    for node in double.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    double.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return double


@pytest.mark.parametrize("alpha", [0.3, 0.8])
@pytest.mark.parametrize("network", ["t2t", "vit_graph"])
def test_the_function_stays_the_same_in_float32(
    network: str, alpha: float, images: np.ndarray, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(network)
    smooth_onnx(source, tmp_path / "smooth.onnx", [images[:6], images[6:]], alpha)
    before, after = run(source, images), run(tmp_path / "smooth.onnx", images)
    difference = np.abs(before - after)
    assert difference.max() < 1e-5 * np.abs(before).max(), f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    first, second = onnx.load(source), onnx.load(tmp_path / "smooth.onnx")
    assert [(node.name, node.op_type, node.output) for node in first.graph.node] == [
        (node.name, node.op_type, node.output) for node in second.graph.node
    ]
    assert first.metadata_props == second.metadata_props
    read = {name for node in second.graph.node for name in node.input}
    assert {initializer.name for initializer in second.graph.initializer} <= read, "an old constant is still stored"


def test_the_function_is_the_same_in_float64(vit_graph: Path, images: np.ndarray) -> None:
    """With ONNX's reference implementation: what is left is double rounding, so the folding itself is exact."""
    double = as_float64(onnx.load(vit_graph))
    smoothed, _ = apply_smoothing(double, read_plan(vit_graph, [images]), 0.6)
    before, after = (ReferenceEvaluator(each).run(None, {INPUT: images[:2]})[0] for each in (double, smoothed))
    assert before.dtype == np.float64
    difference = np.abs(before - after)
    assert difference.max() < 1e-11 * np.abs(before).max(), f"max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_activations_after_smoothing_are_what_was_predicted(
    vit_graph: Path, images: np.ndarray, tmp_path: Path
) -> None:
    """amax_j / s_j, and the largest of them is the tensor's range: the sweep measures no activations again."""
    proto, plan = onnx.load(vit_graph), read_plan(vit_graph, [images])
    smoothed, smoothing = apply_smoothing(proto, plan, 0.5)
    onnx.save(smoothed, tmp_path / "smooth.onnx")
    again = collect_channels(tmp_path / "smooth.onnx", list(plan.channels), [images])
    for fold, layer in zip(plan.folds, smoothing.layers, strict=True):
        (consumer,) = fold.consumers
        expected = plan.channels[consumer.tensor].amax / layer.scale[consumer.labels]
        np.testing.assert_allclose(again[consumer.tensor].amax, expected, rtol=1e-4)
        assert smoothing.amax[consumer.tensor] == pytest.approx(again[consumer.tensor].amax.max(), rel=1e-4)
        assert layer.balance_after < layer.balance_before


def test_channels_are_measured_over_all_batches(vit_graph: Path, images: np.ndarray) -> None:
    plan = read_plan(vit_graph, [images])
    tensor = plan.folds[0].consumers[0].tensor
    parts = [collect_channels(vit_graph, [tensor], [part])[tensor] for part in (images[:5], images[5:])]
    both = collect_channels(vit_graph, [tensor], iter([images[:5], images[5:]]))[tensor]
    np.testing.assert_array_equal(both.amax, np.maximum(parts[0].amax, parts[1].amax))
    np.testing.assert_allclose(both.amax, plan.channels[tensor].amax, rtol=1e-5)
    assert both.rows.shape == (64, 192) and (np.abs(both.rows).max(axis=0) <= both.amax).all()


# Against a reference


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_scales_equal_modelopts(
    alpha: float, vit: torch.nn.Module, vit_graph: Path, spec: Preprocess, images: np.ndarray
) -> None:
    """modelopt multiplies inputs by `pre_quant_scale`, amax_j(W)^(1−α) / amax_j(X)^α: 1/s, with no constant factor."""
    import copy

    import modelopt.torch.quantization as mtq

    x = (torch.from_numpy(images).float().permute(0, 3, 1, 2) / 255 - spec.mean[0]) / spec.std[0]
    config = copy.deepcopy(mtq.INT8_SMOOTHQUANT_CFG) | {"algorithm": {"method": "smoothquant", "alpha": alpha}}
    with torch.inference_mode(False), torch.no_grad():
        theirs = mtq.quantize(copy.deepcopy(vit), config, forward_loop=lambda model: model(x))
    proto, plan = onnx.load(vit_graph), read_plan(vit_graph, [images])
    _, smoothing = apply_smoothing(proto, plan, alpha)
    compared = set()
    for (_, module), fold, layer in zip(modules(proto, plan.folds), plan.folds, smoothing.layers, strict=True):
        quantizer = theirs.get_submodule(module).input_quantizer
        if quantizer.pre_quant_scale is None:  # its defaults leave the head alone
            continue
        (consumer,) = fold.consumers
        ours, reference = layer.scale[consumer.labels], 1 / quantizer.pre_quant_scale.double().numpy()
        np.testing.assert_allclose(ours, reference, rtol=2e-4, err_msg=module)
        assert layer.amax_after == pytest.approx(float(quantizer.amax), rel=2e-4)
        compared.add(module)
    assert compared >= {f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.fc1")}


def test_the_scale_of_the_paper() -> None:
    """Figure 5 of arXiv 2211.10438, α 0.5: |X| up to 16 and |W| up to 1 in a channel both become 4."""
    x, w = np.array([2.0, 16.0, 9.0]), np.array([2.0, 1.0, 1.0])
    s = smoothing_scale(x, w, 0.5)
    np.testing.assert_allclose(s, [1, 4, 3])
    np.testing.assert_allclose(x / s, w * s)
    np.testing.assert_allclose(smoothing_scale(x, w, 1.0), x)
    np.testing.assert_allclose(smoothing_scale(x, w, 0.0), 1 / w)


def test_dead_and_extreme_channels() -> None:
    """A dead channel has 1; others stay where neither the activation nor the weight leaves FP16."""
    s = smoothing_scale(np.array([0.0, 3.0, 1e-30, 1e30, 0.0]), np.array([2.0, 0.0, 1.0, 1e-30, 0.0]), 0.5)
    np.testing.assert_allclose(s, [1, 1, SMALLEST, LARGEST, 1])
    for x, w, alpha in (([np.nan], [1.0], 0.5), ([1.0], [np.inf], 0.5), ([1.0], [1.0], 1.5), ([1.0, 2.0], [1.0], 0.5)):
        with pytest.raises(ValueError, match=r"finite|got magnitudes"):
            smoothing_scale(np.array(x), np.array(w), alpha)


def test_a_dead_channel_in_a_graph_is_left_alone(tmp_path: Path) -> None:
    proto = graph(NORM + "y = MatMul (n, w)", GAMMA | SQUARE, {})
    values = {initializer.name: initializer for initializer in proto.graph.initializer}
    for name in ("gamma", "beta"):
        dead = numpy_helper.to_array(values[name]).copy()
        dead[2] = 0
        values[name].CopyFrom(numpy_helper.from_array(dead, name))
    onnx.save(proto, tmp_path / "dead.onnx")
    batch = np.random.default_rng(1).standard_normal((4, TOKENS, WIDTH)).astype(np.float32)
    plan = read_plan(tmp_path / "dead.onnx", [batch])
    scale = fold_scale(plan.folds[0], plan, lambda _node, _index: numpy_helper.to_array(values["w"]), 0.5)
    assert scale[2] == 1 and (scale[np.arange(WIDTH) != 2] != 1).all()


def test_int8_rounding_and_layer_error() -> None:
    """127 steps on either side, clipped; a layer that INT8 holds exactly has no error, an outlier makes one."""
    values = np.array([-300.0, -127.0, 0.4, 0.6, 126.6])
    np.testing.assert_array_equal(quantize_dequantize(values, 127.0), [-127, -127, 0, 1, 127])
    np.testing.assert_array_equal(quantize_dequantize(values[:, None] * [0, 1], np.array([0.0, 127.0]))[:, 0], 0)
    x, w = np.array([[127.0, -3.0], [5.0, 64.0]]), np.array([[127.0, 2.0], [1.0, 127.0]])
    assert layer_error(x, w, 127.0) == pytest.approx(0, abs=1e-18)
    assert layer_error(x, w, 12700.0) > 1


def test_distance_of_logits() -> None:
    reference = np.array([[2.0, 0.0], [0.0, 2.0]])
    same, other = logits_distance(reference, reference), logits_distance(reference, reference[::-1])
    assert (same.mse, same.kl, same.snr_db) == (0, 0, np.inf)
    assert other.mse == 4 and other.snr_db == pytest.approx(10 * np.log10(0.5))
    assert other.kl == pytest.approx(2 * np.tanh(1))  # (p₁ − p₂)·2, p₁ − p₂ = tanh(1)
    assert logits_distance(reference, reference * np.nan).mse == np.inf


# The sweep


def fake_int8(folder: Path, batch: np.ndarray) -> Callable[[Path], Path]:
    """A small quantizer: Q/DQ with method max in front of every MatMul with a constant matrix, weights per column."""

    def quantize(path: Path) -> Path:
        proto = onnx.load(path)
        weights = {initializer.name: initializer for initializer in proto.graph.initializer}
        chosen = [node for node in proto.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
        ranges = collect_channels(path, list(dict.fromkeys(node.input[0] for node in chosen)), [batch])
        nodes = []
        for node in proto.graph.node:
            if node in chosen:
                stored = weights[node.input[1]]
                values = numpy_helper.to_array(stored)
                rounded = quantize_dequantize(values, np.abs(values).max(axis=0)).astype(np.float32)
                stored.CopyFrom(numpy_helper.from_array(rounded, stored.name))
                name, step = node.input[0], f"{node.name}_step"
                scale = np.array(ranges[name].amax.max() / 127, dtype=np.float32)
                proto.graph.initializer.append(numpy_helper.from_array(scale, step))
                zero = helper.make_tensor(f"{node.name}_zero", TensorProto.INT8, [], [0])
                proto.graph.initializer.append(zero)
                nodes.append(helper.make_node("QuantizeLinear", [name, step, zero.name], [f"{node.name}_q"]))
                nodes.append(
                    helper.make_node("DequantizeLinear", [f"{node.name}_q", step, zero.name], [f"{node.name}_dq"])
                )
                node.input[0] = f"{node.name}_dq"
            nodes.append(node)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        onnx.save(proto, folder / "int8.onnx")
        return folder / "int8.onnx"

    return quantize


def with_outliers(source: Path, target: Path) -> None:
    """The same function with four channels of every fold's tensor 60 times larger, as large transformers have them."""
    proto = onnx.load(source)
    inverse = {initializer.name: initializer for initializer in proto.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node}
    for fold in find_folds(proto):
        if fold.kind == "affine":
            grown = [(constant.node, constant.input, constant.axis, 60.0) for constant in fold.made_by]
            shrunk = [(consumer.weight.node, 1, consumer.weight.axis, 1 / 60) for consumer in fold.consumers]
            for node, index, axis, factor in grown + shrunk:
                stored = inverse[nodes[node].input[index]]
                values = np.moveaxis(numpy_helper.to_array(stored).copy(), axis, 0)
                values[:4] *= np.float32(factor)
                stored.CopyFrom(numpy_helper.from_array(np.moveaxis(values, 0, axis), stored.name))
    onnx.save(proto, target)


def test_sweep_mends_outlier_channels(t2t: Path, images: np.ndarray, tmp_path: Path) -> None:
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    with_outliers(t2t, source)
    np.testing.assert_allclose(run(source, images), run(t2t, images), atol=1e-5)
    seen: list[Candidate] = []
    quantize = fake_int8(tmp_path, images)
    sweep = sweep_alpha(source, target, lambda: [images[:6], images[6:]], (0.4, 0.6), quantize, progress=seen.append)
    table = {candidate.name: candidate for candidate in sweep.candidates}
    assert list(table) == [NONE, "0.4", "0.6", PER_LAYER] and seen == sweep.candidates
    assert sweep.best.mse == min(candidate.mse for candidate in sweep.candidates)
    assert sweep.best.name != NONE and sweep.best.mse < table[NONE].mse / 5, [row.to_dict() for row in sweep.candidates]
    assert sweep.best.snr_db > table[NONE].snr_db + 7 and sweep.best.kl < table[NONE].kl
    assert table[PER_LAYER].mse < table[NONE].mse / 5
    after = logits_distance(run(source, images, literal=True), run(quantize(target), images, literal=True))
    assert after.mse == pytest.approx(sweep.best.mse, rel=1e-3), "the graph written is not the one that was scored"
    assert sweep.smoothing is not None and len(sweep.smoothing.layers) == len(find_folds(onnx.load(source)))


def test_a_smoothing_that_gains_nothing_is_not_taken(t2t: Path, images: np.ndarray, tmp_path: Path) -> None:
    """Quantized to itself the graph as it is has no error at all, the smoothed ones float32's rounding."""
    sweep = sweep_alpha(t2t, tmp_path / "target.onnx", lambda: [images[:4]], (0.5,), lambda path: path)
    assert sweep.best.name == NONE and sweep.smoothing is None
    assert (tmp_path / "target.onnx").read_bytes() == t2t.read_bytes()
    assert sweep.best.to_dict() == {"name": NONE, "alpha": None, "mse": 0, "kl": 0, "snr_db": None}


def broken(source: Path, target: Path) -> Path:
    proto = onnx.load(source)
    gamma = next(node.input[1] for node in proto.graph.node if node.op_type == "LayerNormalization")
    for initializer in proto.graph.initializer:
        if initializer.name == gamma:
            values = numpy_helper.to_array(initializer) * np.float32(np.nan)
            initializer.CopyFrom(numpy_helper.from_array(values, gamma))
    onnx.save(proto, target)
    return target


def test_wrong_input_is_refused(t2t: Path, images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        read_plan(t2t, [])
    with pytest.raises(InputError, match="not finite"):
        read_plan(broken(t2t, tmp_path / "nan.onnx"), [images[:2]])
    with pytest.raises(InputError, match="no alpha"):
        sweep_alpha(t2t, tmp_path / "x.onnx", lambda: [images], (), lambda path: path)
    bare = graph(f"y = MatMul ({INPUT}, w)", SQUARE, {})
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(InputError, match="nothing to smooth"):
        read_plan(tmp_path / "bare.onnx", [np.zeros((2, TOKENS, WIDTH), dtype=np.float32)])
