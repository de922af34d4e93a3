"""FPN and VT-FPN against their equations written out in float64; counts, names, export, FP16, bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import models
from calib.preprocess import Preprocess
from export.onnx_export import INPUT, OUTPUT, NormalisedModel, export_onnx
from models.fpn_resnet import VARIANTS
from models.pyramid import FeaturePyramid
from models.visual_transformer import Projector, TokenSideProjector
from models.zoo import SEGMENTATION

# Parameters, and multiply-accumulates at 800 × 1216 px, with 54 classes: docs/segmentation-networks.md has them by part.
COUNTS = {
    "fpn_resnet18": (15_416_438, 113_934_336_000),
    "fpn_resnet50": (28_485_238, 163_617_177_600),
    "fpn_resnet101": (47_477_366, 235_588_812_800),
    "fpn_mini": (1_674_598, 13_179_494_400),
    "vt_fpn_resnet18": (18_048_118, 68_095_336_448),
    "vt_fpn_resnet50": (31_116_918, 117_778_178_048),
    "vt_fpn_resnet101": (50_109_046, 189_749_813_248),
    "vt_fpn_mini": (1_939_302, 10_628_225_024),
}
LEVELS = range(4)


def message(difference: Tensor) -> str:
    return f"max {difference.max():.2e}, mean {difference.mean():.2e}"


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(name: str, **options: Any) -> nn.Module:
    """A network of doubles; statistics, scales and shifts of its normalisations are away from their start."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).double().eval()
    for key, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            tensor.copy_(
                0.5 + torch.rand_like(tensor) if key.endswith(("weight", "var")) else torch.randn_like(tensor) / 5
            )
    return model


# The oracle: one image at a time, a map is (C, H, W), tokens are a list of vectors (D,).


def convolved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Every output pixel is the sum over the window around it; outside are zeros."""
    side = layer.weight.shape[2]
    padded = torch.zeros(x.shape[0], x.shape[1] + side - 1, x.shape[2] + side - 1, dtype=x.dtype)
    padded[:, side // 2 : side // 2 + x.shape[1], side // 2 : side // 2 + x.shape[2]] = x
    y = torch.zeros(layer.weight.shape[0], *x.shape[1:], dtype=x.dtype)
    for row in range(side):
        for column in range(side):
            window = padded[:, row : row + x.shape[1], column : column + x.shape[2]]
            y += torch.einsum("oc,chw->ohw", layer.weight[:, :, row, column], window)
    return y if layer.bias is None else y + layer.bias[:, None, None]


def convolved_and_normalised(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    return (convolved(conv, x) - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def twice(x: Tensor, times: int = 2) -> Tensor:
    """Bilinear, pixel centres at half: what lies outside is the border's."""

    def neighbours(index: int, size: int) -> list[tuple[int, float]]:
        place = max((index + 0.5) / times - 0.5, 0.0)
        low = int(place)
        return [(low, 1 - (place - low)), (min(low + 1, size - 1), place - low)]

    y = torch.zeros(x.shape[0], times * x.shape[1], times * x.shape[2], dtype=x.dtype)
    for row in range(y.shape[1]):
        for column in range(y.shape[2]):
            for at, weight in neighbours(row, x.shape[1]):
                for across, share in neighbours(column, x.shape[2]):
                    y[:, row, column] += weight * share * x[:, at, across]
    return y


def repeated(x: Tensor) -> Tensor:
    """Nearest: every pixel four times."""
    return torch.stack(
        [
            torch.stack([x[:, row // 2, column // 2] for column in range(2 * x.shape[2])], 1)
            for row in range(2 * x.shape[1])
        ],
        1,
    )


def softmax(logits: list[Tensor]) -> list[Tensor]:
    exponentials = [logit.exp() for logit in logits]
    return [value / sum(exponentials) for value in exponentials]


def mean_of(vectors: list[Tensor], logits: list[Tensor]) -> Tensor:
    return sum(weight * vector for weight, vector in zip(softmax(logits), vectors, strict=True))


def standardised(norm: nn.LayerNorm, token: Tensor) -> Tensor:
    centred = token - token.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias


def pixels_of(x: Tensor) -> list[Tensor]:
    return [x[:, row, column] for row in range(x.shape[1]) for column in range(x.shape[2])]


def literal_tokens(tokenizer: nn.Module, x: Tensor) -> list[Tensor]:
    """Equation 1 and W_V: a token is W_V of the mean pixel, weighted by how much a pixel is like a column of W_A."""
    pixels, filters = pixels_of(x), tokenizer.groups.weight.flatten(1)
    return [tokenizer.value.weight @ mean_of(pixels, [pixel @ one for pixel in pixels]) for one in filters]


def literal_transformer(mixer: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    """Equations 3 and 4 over the tokens of all maps, between two LayerNorms."""
    tokens = [standardised(mixer.norm1, token) for token in tokens]
    queries = [mixer.query.weight @ token for token in tokens]
    attended = [
        token + mean_of(tokens, [(mixer.key.weight @ token) @ query / 256**0.5 for query in queries])
        for token in tokens
    ]
    mixed = [token + mixer.fc2.weight @ (mixer.fc1.weight @ token).clamp(min=0) for token in attended]
    return [standardised(mixer.norm2, token) for token in mixed]


def literal_projection(projector: nn.Module, x: Tensor, tokens: list[Tensor]) -> Tensor:
    """Equation 5, W_Q on every pixel."""
    keys, values = ([layer.weight @ token for token in tokens] for layer in (projector.key, projector.value))
    new = []
    for pixel in pixels_of(x):
        query = pixel @ projector.query.weight
        new.append(pixel + mean_of(values, [query @ key / x.shape[0] ** 0.5 for key in keys]))
    return torch.stack(new, 1).reshape(x.shape)


def literal_neck(neck: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    x = [convolved_and_normalised(*neck.laterals[level], maps[level]) for level in LEVELS]
    if isinstance(neck, FeaturePyramid):
        for level in (2, 1, 0):
            x[level] = x[level] + repeated(x[level + 1])
        return [convolved_and_normalised(*neck.outputs[level], x[level]) for level in LEVELS]
    tokens = [token for level in LEVELS for token in literal_tokens(neck.tokenizers[level], x[level])]
    mixed = literal_transformer(neck.mixer, tokens)
    return [literal_projection(neck.projectors[level], x[level], mixed) for level in LEVELS]


def literal_branch(branch: nn.Module, maps: list[Tensor]) -> Tensor:
    total = 0
    for level, x in enumerate(maps):
        layers = [part for part in branch.levels[level] if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
        assert len(layers) == 2 * max(1, level)
        for step in range(max(1, level)):
            x = convolved_and_normalised(layers[2 * step], layers[2 * step + 1], x).clamp(min=0)
            x = twice(x) if level else x
        total = total + x
    return total


@pytest.mark.parametrize("name", ["fpn_mini", "vt_fpn_mini"])
def test_logits_equal_the_equations(name: str) -> None:
    model = build(name, num_classes=3)
    images = draw(2, 3, 32, 64)  # not square: rows and columns cannot be mixed up
    with torch.no_grad():
        maps = [model.maxpool(model.act1(model.bn1(model.conv1(images))))]
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            maps.append(stage(maps[-1]))
        assert [tuple(x.shape[2:]) for x in maps[1:]] == [(8, 16), (4, 8), (2, 4), (1, 2)]
        for index in range(2):
            neck = literal_neck(model.neck, [x[index] for x in maps[1:]])
            for level, ours in enumerate(model.neck(maps[1:])):
                difference = (ours[index] - neck[level]).abs()
                assert difference.max() < 1e-9, f"map {level}: {message(difference)}"
            expected = twice(convolved(model.head, literal_branch(model.branch, neck)), times=4)
            difference = (model(images)[index] - expected).abs()
            assert difference.max() < 1e-9 and expected.std() > 1e-3, message(difference)


def test_w_q_on_tokens_is_w_q_on_pixels() -> None:
    ours, theirs = TokenSideProjector(6, 8, 0.0).double(), Projector(6, 8, 0.0).double()
    theirs.key, theirs.value = ours.key, ours.value
    with torch.no_grad():
        theirs.query.weight.copy_(ours.query.weight.t()[:, :, None, None])
        x, tokens = draw(2, 6, 4, 5), draw(2, 7, 8, seed=2)
        difference = (ours(x, tokens) - theirs(x, tokens)).abs()
    assert difference.max() < 1e-12, message(difference)


def test_every_map_hears_of_every_other() -> None:
    model = build("vt_fpn_mini")
    maps = [draw(1, wide, 8 >> level, 16 >> level) for level, wide in enumerate((32, 64, 128, 256))]
    for level in LEVELS:
        x = [part.clone().requires_grad_() for part in maps]
        model.neck(x)[level].sum().backward()
        assert all(part.grad is not None and part.grad.abs().max() > 0 for part in x), f"map {level}"


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameters_and_operations(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = timm.create_model(name).eval()
        assert model(torch.empty(1, 3, 800, 1216)).shape == (1, 54, 800, 1216)
    assert (sum(value.numel() for value in model.parameters()), counter.get_total_flops() // 2) == COUNTS[name]
    assert type(model) is models.FPNResNet and model.num_features == VARIANTS[name].branch_width


def test_all_of_them_are_known() -> None:
    assert sorted(SEGMENTATION) == sorted(COUNTS) == sorted(VARIANTS) and all(
        timm.is_model(name) for name in SEGMENTATION
    )


@pytest.mark.parametrize("name", SEGMENTATION)
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 32)])
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, img_size=size, num_classes=5, in_chans=1).eval()
        assert model(torch.empty(2, 1, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("size", [100, (64, 100), (48, 64), 16, 0])
def test_other_sizes_are_refused(size: Any) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    text = f"images of {height} × {width} px do not fit: height and width are multiples of 32"
    with torch.device("meta"):
        if size:  # timm's functions take 0 for none
            with pytest.raises(ValueError, match=text):
                timm.create_model("vt_fpn_mini", img_size=size)
        with pytest.raises(ValueError, match=text):
            timm.create_model("fpn_mini")(torch.empty(1, 3, height, width))


def test_names_of_the_weights() -> None:
    """A checkpoint of today is read tomorrow."""
    with torch.device("meta"):
        model = timm.create_model("vt_fpn_mini", num_classes=7)
        fpn, resnet = timm.create_model("fpn_resnet50"), timm.create_model("resnet50")
    names = {name for name, _ in model.named_parameters() if not name.startswith(("conv1", "bn1", "layer"))}
    norm = ("0.weight", "1.weight", "1.bias")
    mixer = (
        "norm1.weight",
        "norm1.bias",
        "key.weight",
        "query.weight",
        "fc1.weight",
        "fc2.weight",
        "norm2.weight",
        "norm2.bias",
    )
    assert names == {
        *(f"neck.laterals.{level}.{part}" for level in LEVELS for part in norm),
        *(f"neck.tokenizers.{level}.{part}.weight" for level in LEVELS for part in ("groups", "value")),
        *(f"neck.mixer.{part}" for part in mixer),
        *(f"neck.projectors.{level}.{part}.weight" for level in LEVELS for part in ("query", "key", "value")),
        *(f"branch.levels.{level}.{part}" for level in LEVELS for part in norm),
        *(f"branch.levels.2.{part}" for part in ("4.weight", "5.weight", "5.bias")),
        *(f"branch.levels.3.{part}" for part in ("4.weight", "5.weight", "5.bias", "8.weight", "9.weight", "9.bias")),
        "head.weight", "head.bias",
    }  # fmt: skip
    assert {name.split(".")[1] for name, _ in fpn.neck.named_parameters(prefix="neck")} == {"laterals", "outputs"}
    ours = {key: value.shape for key, value in fpn.state_dict().items()}
    theirs = {key: value.shape for key, value in resnet.state_dict().items() if not key.startswith("fc")}
    assert theirs.items() <= ours.items()


def test_reset_classifier_and_drop_path() -> None:
    with torch.device("meta"):
        model = timm.create_model("vt_fpn_resnet50", drop_path_rate=0.3)
        model.reset_classifier(5)
        assert model(torch.empty(2, 3, 32, 64)).shape == (2, 5, 32, 64)
        assert model.get_classifier() is model.head and model.num_classes == 5 and model.no_weight_decay() == set()
        model.reset_classifier(0)
        for features in (model, timm.create_model("fpn_resnet18", num_classes=0)):
            assert features(torch.empty(2, 3, 32, 64)).shape == (2, features.num_features, 32, 64)
            assert not [name for name in features.state_dict() if name.startswith("head")]
    rates = [part.drop_prob for part in model.modules() if type(part).__name__ == "DropPath"]
    assert rates == sorted(rates) and rates[-5:] == pytest.approx([0.3] * 5)


def test_pretrained_is_refused_with_the_way_out() -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"checkpoint|pretrained"):
        timm.create_model("vt_fpn_resnet50", pretrained=True)


@pytest.mark.parametrize("name", ["fpn_mini", "vt_fpn_mini", "vt_fpn_resnet18"])
def test_all_new_weights_learn(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4)
    loss = nn.functional.cross_entropy(model(draw(2, 3, 64, 96).float()), torch.randint(0, 4, (2, 64, 96)))
    loss.backward()
    assert abs(float(loss.detach()) - np.log(4)) < 0.3, "a fresh head prefers no class"
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        if key.startswith(("neck", "branch", "head")):
            assert parameter.grad.abs().max() > 0, f"{key} does not learn"


@pytest.mark.parametrize("name", ["fpn_mini", "vt_fpn_mini", "vt_fpn_resnet18"])
def test_half_precision_is_finite_and_close(name: str) -> None:
    model, images = build(name, num_classes=4), draw(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(images)
        ours = model.half()(images.half()).double()
    difference = (ours - expected).abs()
    assert ours.isfinite().all() and difference.max() < 0.02 * expected.abs().max(), message(difference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fpn_mini", "vt_fpn_mini"])
def test_onnx_equals_pytorch_on_both_cpu_engines(name: str, tmp_path: Path) -> None:
    model, spec = build(name, num_classes=3).float(), Preprocess(64, 96, 1.0, "bilinear", (0.4,) * 3, (0.3,) * 3)
    assert export_onnx(model, spec, ["a", "b", "c"], tmp_path / "model.onnx").way == "dynamo"
    onnxruntime_session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    for batch in (1, 3):
        with torch.no_grad():
            expected = NormalisedModel(model, spec)(torch.from_numpy(images[:batch])).numpy()
        for engine, logits in (
            ("onnxruntime", onnxruntime_session.run([OUTPUT], {INPUT: images[:batch]})[0]),
            ("openvino", compiled(images[:batch])[0]),
        ):
            assert logits.shape == (batch, 3, 64, 96)
            difference = np.abs(logits - expected)
            limit = 1e-5 * np.abs(expected).max()
            assert difference.max() < limit, f"{engine}: max {difference.max():.2e}, mean {difference.mean():.2e}"
    check_graph(onnx.load(tmp_path / "model.onnx"))


def check_graph(graph: onnx.ModelProto) -> None:
    """Up-sampling by constant factors, no normalisation left but the tokens', no shape that is computed when it runs."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    operators = {node.op_type for node in graph.graph.node}
    assert not operators & {"BatchNormalization", "InstanceNormalization", "Shape", "Gather", "Einsum"}, operators
    resizes = [node for node in graph.graph.node if node.op_type == "Resize"]
    assert len(resizes) >= 7
    for node in resizes:
        assert len(node.input) == 3, "sizes are given, no scales"
        scales = constants[node.input[2]]
        assert scales[:2].tolist() == [1, 1] and scales[2] == scales[3] and scales[2] in (2, 4)
