"""VT-ResNet against the paper's equations written out per image, per token and per pixel; counts, export, FP16, bad input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import models
from calib.preprocess import Preprocess
from export.graph.layers import read_layers
from export.onnx_export import INPUT, OUTPUT, NormalisedModel, export_onnx
from models.visual_transformer import (
    KMEANS_ITERATIONS,
    ClusteringTokenizer,
    PoolingTokenizer,
    Projector,
    RecurrentTokenizer,
    TokenMixer,
    VisualTransformer,
    kmeans,
    unit_length,
)

# Parameters and multiply-accumulates at 224 px, 1000 classes: docs/visual-transformer.md lists them beside the paper's.
COUNTS = {
    "vt_resnet18": (9_985_576, 1_583_177_728),
    "vt_resnet34": (19_309_352, 3_318_505_472),
    "vt_resnet50": (20_607_016, 3_865_665_536),
    "vt_resnet101": (39_599_144, 7_577_886_720),
}
TOKENIZERS = ("filter", "pooling", "clustering")


def message(difference: Tensor) -> str:
    return f"max {difference.max():.2e}, mean {difference.mean():.2e}"


# The oracle. One image at a time; a map is a list of pixels (C,), tokens are a list of vectors (D,).


def softmax(logits: list[Tensor]) -> list[Tensor]:
    exponentials = [logit.exp() for logit in logits]
    return [value / sum(exponentials) for value in exponentials]


def weighted(weights: list[Tensor], vectors: list[Tensor]) -> Tensor:
    return torch.stack([weight * vector for weight, vector in zip(weights, vectors, strict=True)]).sum(0)


def through(layer: nn.Module, vector: Tensor) -> Tensor:
    """A weight matrix (or none) applied to one vector."""
    if isinstance(layer, nn.Identity):
        return vector
    return layer.weight.flatten(1) @ vector


def normalised(norm: nn.Module, token: Tensor) -> Tensor:
    centred = token - token.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias


def divisor(length: int, printed: bool) -> float:
    """What a product of projections is divided by: nothing in the equations as printed."""
    return 1.0 if printed else length**0.5


def literal_kmeans(pixels: list[Tensor], clusters: int) -> list[Tensor]:
    units = [pixel / pixel.norm() for pixel in pixels]
    centroids = [units[int((index + 0.5) * len(units) / clusters)] for index in range(clusters)]
    for _ in range(KMEANS_ITERATIONS):
        members: list[list[Tensor]] = [[] for _ in centroids]
        for unit in units:
            distances = [float((unit - centroid).detach().norm()) for centroid in centroids]
            members[distances.index(min(distances))].append(unit)
        centroids = [sum(found) / len(found) if found else old for found, old in zip(members, centroids, strict=True)]
    return centroids


def literal_filters(tokenizer: nn.Module, pixels: list[Tensor], previous: list[Tensor], printed: bool) -> list[Tensor]:
    """The vectors that a pixel is multiplied with, one a token: columns of W_A, rows of W_R, or centroids."""
    kind = type(tokenizer).__name__
    if kind == "FilterTokenizer":
        return list(tokenizer.groups.weight.flatten(1))
    if kind == "RecurrentTokenizer":
        return [tokenizer.groups.weight @ token / divisor(tokenizer.groups.out_features, printed) for token in previous]
    assert kind == "ClusteringTokenizer"
    return [centroid.detach() for centroid in literal_kmeans(pixels, tokenizer.tokens)]


def literal_resize(pixels: list[Tensor], height: int, width: int, side: int) -> list[Tensor]:
    """Bilinear, pixel centres at half: what lies outside is the border's."""

    def neighbours(index: int, size: int) -> list[tuple[int, float]]:
        place = max((index + 0.5) * size / side - 0.5, 0.0)
        low = int(place)
        return [(low, 1 - (place - low)), (min(low + 1, size - 1), place - low)]

    return [
        sum(wy * wx * pixels[y * width + x] for y, wy in neighbours(row, height) for x, wx in neighbours(column, width))
        for row in range(side)
        for column in range(side)
    ]


def literal_tokens(
    tokenizer: nn.Module, pixels: list[Tensor], shape: tuple[int, int], previous: list[Tensor], printed: bool = False
) -> list[Tensor]:
    if type(tokenizer).__name__ == "PoolingTokenizer":
        pooled = literal_resize(pixels, *shape, tokenizer.side)
    else:
        filters = literal_filters(tokenizer, pixels, previous, printed)
        pooled = [weighted(softmax([pixel @ one for pixel in pixels]), pixels) for one in filters]
    return [through(tokenizer.value, token) for token in pooled]


def literal_mixer(mixer: nn.Module, tokens: list[Tensor], printed: bool) -> list[Tensor]:
    """Equations 3 and 4, between the two normalisations where they are not as printed."""
    tokens = tokens if printed else [normalised(mixer.norm1, token) for token in tokens]
    keys, queries = ([through(layer, token) for token in tokens] for layer in (mixer.key, mixer.query))
    attended = [
        token + weighted(softmax([key @ query / divisor(key.shape[0], printed) for query in queries]), tokens)
        for token, key in zip(tokens, keys, strict=True)
    ]
    mixed = [token + through(mixer.fc2, through(mixer.fc1, token).clamp(min=0)) for token in attended]
    return mixed if printed else [normalised(mixer.norm2, token) for token in mixed]


def literal_projector(projector: nn.Module, pixels: list[Tensor], tokens: list[Tensor], printed: bool) -> list[Tensor]:
    """Equation 5."""
    keys, values = ([through(layer, token) for token in tokens] for layer in (projector.key, projector.value))
    queries = [through(projector.query, pixel) for pixel in pixels]
    return [
        pixel + weighted(softmax([query @ key / divisor(key.shape[0], printed) for key in keys]), values)
        for pixel, query in zip(pixels, queries, strict=True)
    ]


def literal_stage(modules: nn.ModuleList, image: Tensor, printed: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """All modules on one map (C, H, W): its pixels and tokens afterwards."""
    shape = (image.shape[1], image.shape[2])
    pixels = [image[:, y, x] for y in range(shape[0]) for x in range(shape[1])]
    tokens: list[Tensor] = []
    for module in modules:
        tokens = literal_mixer(module.mixer, literal_tokens(module.tokenizer, pixels, shape, tokens, printed), printed)
        if module.projector is not None:
            pixels = literal_projector(module.projector, pixels, tokens, printed)
    return pixels, tokens


def build(name: str = "vt_resnet18", seed: int = 0, **options: Any) -> nn.Module:
    """A network of doubles; everything in the stage is away from its start, normalisations too."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=7, **options).double().eval()
    for parameter in model.stage5.parameters():
        parameter.data = 1.2 * parameter + 0.1 * torch.rand_like(parameter) * (parameter.ndim == 1)
    return model


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STAGES = [
    ("vt_resnet18", "filter", True),
    ("vt_resnet18", "pooling", True),
    ("vt_resnet34", "clustering", True),
    ("vt_resnet34", "filter", False),
    ("vt_resnet50", "filter", True),
]


@pytest.mark.parametrize("printed", [True, False], ids=["as printed", "divided and normalised"])
@pytest.mark.parametrize(("name", "tokenizer", "recurrent"), STAGES)
def test_stage_equals_the_equations(name: str, tokenizer: str, recurrent: bool, printed: bool) -> None:
    model = build(name, img_size=96, tokenizer=tokenizer, recurrent=recurrent, tokens=9, printed=printed)
    assert printed != any(isinstance(part, nn.LayerNorm) for part in model.modules())
    x = draw(2, model.variant.channels, 6, 5)  # not square: rows and columns cannot be mixed up
    tokens = None
    with torch.no_grad():
        expected = [literal_stage(model.stage5, image, printed) for image in x]
        for module in model.stage5:
            x, tokens = module(x, tokens)
    for kind, ours, theirs in (
        ("map", x.flatten(2).transpose(1, 2), [pixels for pixels, _ in expected]),
        ("tokens", tokens, [found for _, found in expected]),
    ):
        difference = (ours - torch.stack([torch.stack(vectors) for vectors in theirs])).abs()
        assert difference.max() < 1e-9, f"{kind}: {message(difference)}"


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_logits_are_the_head_on_the_mean_token(tokenizer: str) -> None:
    model = build(img_size=80, tokenizer=tokenizer)
    images = draw(2, 3, 80, 80)
    with torch.no_grad():
        x = model.layer3(model.layer2(model.layer1(model.maxpool(model.bn1(model.conv1(images)).relu()))))
        x = model.widen(x)
        features = torch.stack([sum(literal_stage(model.stage5, image)[1]) / 16 for image in x])
        expected = features @ model.head.weight.t() + model.head.bias
        difference = (model(images) - expected).abs()
        assert difference.max() < 1e-9, message(difference)
        assert torch.equal(model.forward_features(images).argmax(1), features.argmax(1))


def test_gradient_takes_centroids_as_constants() -> None:
    torch.manual_seed(0)
    tokenizer = ClusteringTokenizer(8, 4, 8).double()
    x = draw(1, 8, 4, 5).requires_grad_()
    (ours,) = torch.autograd.grad(tokenizer(x).square().sum(), x)
    pixels = list(x[0].flatten(1).t())
    tokens = literal_tokens(tokenizer, pixels, (4, 5), [])
    (expected,) = torch.autograd.grad(torch.stack(tokens).square().sum(), x)
    difference = (ours - expected).abs()
    assert difference.max() < 1e-9, message(difference)


def test_kmeans_with_empty_clusters_and_black_pixels() -> None:
    distinct = draw(3, 8)
    pixels = distinct[torch.arange(20) % 3]  # 20 pixels, 3 different ones, 16 clusters
    expected = torch.stack(literal_kmeans(list(pixels), 16))
    difference = (kmeans(unit_length(pixels[None]), 16)[0] - expected).abs()
    assert difference.max() < 1e-9, message(difference)
    pixels[4:9] = 0
    assert kmeans(unit_length(pixels[None]), 16).isfinite().all()


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameters_and_operations(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = timm.create_model(name)
        model.eval()(torch.empty(1, 3, 224, 224))
    assert (sum(value.numel() for value in model.parameters()), counter.get_total_flops() // 2) == COUNTS[name]
    assert type(model) is models.VTResNet and model.num_features == 1024


class Attentions(TorchFunctionMode):
    """Keeps every softmax: its logits and its result."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.softmax:
            self.seen.append((args[0].detach(), result.detach()))
        return result


def photograph_batch(photographs: dict[str, np.ndarray], count: int, size: int) -> Tensor:
    grey = torch.from_numpy(photographs["val_images"][:count]).float().div(255).sub(0.286).div(0.353)[:, None]
    return nn.functional.interpolate(grey, size=(size, size), mode="bilinear").expand(-1, 3, -1, -1)


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [("vt_resnet18", "filter"), ("vt_resnet18", "pooling"), ("vt_resnet18", "clustering"), ("vt_resnet50", "filter")],
)
def test_fresh_attentions_choose_little_and_all_weights_learn(
    name: str, tokenizer: str, photographs: dict[str, np.ndarray]
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=96, num_classes=10, tokenizer=tokenizer)
    with Attentions() as attentions:
        loss = nn.functional.cross_entropy(model(photograph_batch(photographs, 8, 96)), torch.arange(8))
    loss.backward()
    for index, (logits, weights) in enumerate(attentions.seen):
        largest = weights.amax(-1).mean()
        assert largest < 0.75, f"attention {index}: mean largest weight {largest:.2f}, logits' std {logits.std():.2f}"
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        if key.startswith(("stage5", "widen", "head")):
            assert parameter.grad.abs().max() > 0, f"{key} does not learn"


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_half_precision_is_finite_and_close(tokenizer: str, photographs: dict[str, np.ndarray]) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vt_resnet18", img_size=80, num_classes=10, tokenizer=tokenizer).eval()
    images = photograph_batch(photographs, 4, 80)
    with torch.no_grad():
        expected = model(images)
        ours = model.half()(images.half()).float()
    difference = (ours - expected).abs()
    assert ours.isfinite().all() and difference.max() < 0.02 * expected.abs().max(), message(difference)


def test_unit_length_survives_half_precision() -> None:
    pixels = 200 * draw(1, 5, 1024)  # |x|² is 4e7
    ours = unit_length(pixels.half()).double()
    difference = (ours - pixels / pixels.norm(dim=2, keepdim=True)).abs()
    assert difference.max() < 2e-3 * float(ours.abs().max()), message(difference)


def run_exported(model: nn.Module, size: int, path: Path, photographs: dict[str, np.ndarray]) -> list[str]:
    """Export, compare with PyTorch at two batch sizes; returns the class that made each Softmax."""
    spec = Preprocess(size, size, 1.0, "bilinear", (0.286, 0.286, 0.286), (0.353, 0.353, 0.353))
    export_onnx(model, spec, ["a", "b", "c"], path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    grey = np.pad(photographs["val_images"][:3], ((0, 0), (0, size - 28), (0, size - 28)), mode="wrap")
    images = np.repeat(grey[..., None], 3, axis=3)
    for batch in (1, 3):
        with torch.no_grad():
            expected = NormalisedModel(model, spec)(torch.from_numpy(images[:batch])).numpy()
        difference = np.abs(session.run([OUTPUT], {INPUT: images[:batch]})[0] - expected)
        assert difference.max() < 2e-4, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    return [layer.classes[-1] for layer in read_layers(onnx.load(path)) if layer.operator == "Softmax"]


@pytest.mark.slow
def test_onnx_equals_pytorch(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vt_resnet18", img_size=64, num_classes=3).eval()
    made_by = run_exported(model, 64, tmp_path / "model.onnx", photographs)
    assert made_by == ["FilterTokenizer", "TokenMixer", "Projector", "RecurrentTokenizer", "TokenMixer"]


class SmallStage(nn.Module):
    """The tokenizers that `vt_resnet18` has only when asked, on one convolution instead of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 24, 16, stride=16), nn.Linear(32, 3)
        tokenizers = (PoolingTokenizer(24, 9, 32), RecurrentTokenizer(24, 32), ClusteringTokenizer(24, 9, 32))
        projectors = (Projector(24, 32, 0.0), Projector(24, 32, 0.0), None)
        self.stage5 = nn.ModuleList(
            VisualTransformer(tokenizer, TokenMixer(32, 0.0), projector)
            for tokenizer, projector in zip(tokenizers, projectors, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        x, tokens = self.stem(images), None
        for module in self.stage5:
            x, tokens = module(x, tokens)
        return self.head(tokens.mean(1))


@pytest.mark.slow
def test_onnx_of_the_other_tokenizers_equals_pytorch(tmp_path: Path, photographs: dict[str, np.ndarray]) -> None:
    torch.manual_seed(0)
    made_by = run_exported(SmallStage().eval(), 80, tmp_path / "model.onnx", photographs)
    after = ["TokenMixer", "Projector"]
    assert made_by == [*after, "RecurrentTokenizer", *after, "ClusteringTokenizer", "TokenMixer"]


def test_pretrained_is_refused_with_the_way_out() -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"checkpoint|pretrained"):
        timm.create_model("vt_resnet18", pretrained=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tokenizer": "Filter"}, "no tokenizer 'Filter': tokenizer is one of filter, pooling, clustering"),
        ({"tokenizer": "recurrent"}, "no tokenizer 'recurrent'"),
        ({"tokenizer": "pooling", "tokens": 15}, "a square number of tokens, got 15"),
        ({"tokenizer": "clustering", "img_size": 48}, "48 × 48 px images has 9 pixels, too few for 16 clusters"),
    ],
)
def test_bad_options(options: dict[str, Any], text: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=text):
        timm.create_model("vt_resnet18", **options)


def test_reset_classifier_and_timms_names() -> None:
    with torch.device("meta"):
        model, resnet = timm.create_model("vt_resnet50", drop_path_rate=0.3), timm.create_model("resnet50")
        model.reset_classifier(5)
        assert model(torch.empty(2, 3, 64, 64)).shape == (2, 5)
    assert model.get_classifier() is model.head and model.num_classes == 5 and model.no_weight_decay() == set()
    with torch.device("meta"):  # timm's meaning of no classes: features
        model.reset_classifier(0)
        for features in (model, timm.create_model("vt_resnet18", num_classes=0)):
            assert features(torch.empty(2, 3, 64, 64)).shape == (2, features.num_features) == (2, 1024)
            assert not [name for name in features.state_dict() if name.startswith("head")]
        model.reset_classifier(5)
    ours = {key: value.shape for key, value in model.state_dict().items()}
    theirs = {key: value.shape for key, value in resnet.state_dict().items() if not key.startswith(("layer4", "fc"))}
    assert theirs.items() <= ours.items()
    rates = [part.drop_prob for part in model.modules() if type(part).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3) and rates == sorted(rates)
