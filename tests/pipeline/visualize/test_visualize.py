"""The visualize stage on a small network with a dead and an exploding channel, against PyTorch; its pictures and its page."""

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor, nn

from calib.calibration import load_calibration_set, make_calibration_set
from calib.errors import InputError
from calib.images import read_split
from calib.preprocess import Preprocess
from export.engines import engine as engines
from export.engines import onnxruntime_backend
from export.engines.spec import OWN_GRAPHS
from export.graph.taps import find_blocks, write_tapped
from export.onnx_export import CLASSES_KEY, INPUT, PREPROCESS_KEY, NormalisedModel, export_onnx, set_metadata
from export.quantize.cast_fp16 import cast_fp16
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import quantize_int8
from export.runner import Unavailable
from pipeline.artifact import Artifact
from pipeline.commands.stage import STAGE_HELP
from pipeline.recipe import Recipe, load_recipe
from pipeline.report.page.features import FeatureMaps, features_section, read_features
from pipeline.report.page.render import Section
from pipeline.stages import STAGES
from pipeline.visualize import stage as visualize_stage
from pipeline.visualize.picture import Picture, draw_attention, draw_features
from pipeline.visualize.summary import describe_block

pytestmark = pytest.mark.slow

CLASSES = ["class_0", "class_1", "class_2"]
DEAD, EXPLODING, IMAGES = 3, 6, 12
ORANGE, BLUE = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)


class MapBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))  # B 16 4 4


class TokenBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x)  # B 16 16


class PixelTokenizer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x[:, :, :5], dim=1)  # B 16 5


class Network(nn.Module):
    """Two blocks of maps, the second with a dead channel; two of tokens, the first with an exploding one; a tokenizer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, stride=8)
        self.layer1 = nn.Sequential(MapBlock(), MapBlock())
        self.tokenizer = PixelTokenizer()
        self.blocks = nn.ModuleList((TokenBlock(), TokenBlock()))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.stem(x)).flatten(2).transpose(1, 2)  # B 16 16
        weights = self.tokenizer(x)  # B 16 5
        for block in self.blocks:
            x = block(x)
        return self.head((weights.transpose(1, 2) @ x).mean(1))  # B 3


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        model.layer1[1].conv.bias[DEAD] = -1e6
        model.blocks[0].fc.bias[EXPLODING] = 100.0
        model.blocks[1].fc.weight[:, EXPLODING] = 0  # the others of this block do not grow with it
    return model


@pytest.fixture(scope="module")
def inputs(
    network: nn.Module, spec: Preprocess, image_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    """What the calibrate and quantize stages leave."""
    folder = tmp_path_factory.mktemp("inputs")
    made = make_calibration_set(read_split(image_root, "train"), spec, 30, 0, folder / "calibration.npz")
    export_onnx(network, spec, CLASSES, folder / "fp32.onnx")
    quantize_int8(folder / "fp32.onnx", folder / "int8.onnx", made)
    for backend in OWN_GRAPHS:
        quantize_int8(folder / "fp32.onnx", folder / f"int8-{backend}.onnx", made, dialect=DIALECTS[backend])
    cast_fp16(folder / "fp32.onnx", folder / "fp16.onnx", made, [])
    return {"calibrate": artifact(folder), "quantize": artifact(folder)}


def artifact(folder: Path) -> Artifact:
    return Artifact(folder, "", {path.name: "" for path in folder.iterdir()}, {}, {}, 0.0)


def recipe_values(image_root: Path, **visualize: Any) -> dict[str, Any]:
    return {
        "schema": 1, "data": {"name": "three classes", "root": str(image_root)},
        "model": {"name": "t2t_vit_mini", "image_size": 32},
        "quantize": {"precisions": ["fp32", "fp16", "int8"]},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}],
        "benchmark": {"threads": 1}, "visualize": {"images": IMAGES} | visualize,
    }  # fmt: skip


def visualize(image_root: Path, inputs: dict[str, Artifact], folder: Path, **part: Any) -> dict[str, Any]:
    """Run the stage; returns channels.json."""
    folder.mkdir(exist_ok=True, parents=True)
    visualize_stage.run(Recipe.model_validate(recipe_values(image_root, **part)), inputs, folder)
    return json.loads((folder / "channels.json").read_text())


@pytest.fixture(scope="module")
def finished(image_root: Path, inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo" / "visualize"
    visualize(image_root, inputs, folder)
    return folder


@pytest.fixture(scope="module")
def summary(finished: Path) -> dict[str, Any]:
    return json.loads((finished / "channels.json").read_text())


def by_name(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {block["name"]: block for block in summary["blocks"]}


def test_it_leaves_pictures_and_numbers_and_nothing_else(finished: Path, summary: dict[str, Any]) -> None:
    assert {path.name for path in finished.iterdir()} == {"features.png", "attention.png", "channels.json"}
    assert list(by_name(summary)) == ["layer1.0", "layer1.1", "blocks.0", "blocks.1"]
    assert summary["engine"] == "onnxruntime-int8" and summary["reason"] == "" and summary["images"] == IMAGES
    assert summary["attention"] == [{"name": "tokenizer", "tokens": 5, "grid": [4, 4]}]
    assert summary["image"] == {"index": 0, "path": "class_0/000.png", "class": "class_0"}


def test_the_marked_channels_are_those_made_dead_and_exploding(summary: dict[str, Any]) -> None:
    blocks = by_name(summary)
    assert {name: (block["dead"], block["exploding"]) for name, block in blocks.items()} == {
        "layer1.0": ([], []), "layer1.1": ([DEAD], []), "blocks.0": ([], [EXPLODING]), "blocks.1": ([], [EXPLODING]),
    }  # fmt: skip
    block = blocks["blocks.0"]
    assert block["scale_setters"] == [EXPLODING] and block["levels"] < 2 and block["levels_without"] > 20
    assert EXPLODING in block["shown"] and DEAD in blocks["layer1.1"]["shown"]
    assert f"blocks.0: {block['levels']:.3g} of 127" in describe_block(block)
    assert f"channel {EXPLODING} sets the scale ({block['levels_without']:.3g} levels without)" in describe_block(block)


def hooked(network: nn.Module, spec: Preprocess, images: np.ndarray, name: str) -> np.ndarray:
    """What PyTorch's module returns, channels last, one row for each position."""
    found: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.inference_mode():
        NormalisedModel(network, spec).eval()(torch.from_numpy(images))
    handle.remove()
    output = found[0].permute(0, 2, 3, 1) if found[0].ndim == 4 else found[0]  # B H W C
    return output.reshape(-1, output.shape[-1]).numpy()  # positions C


def test_the_numbers_are_pytorchs_over_evenly_spaced_calibration_images(
    inputs: dict[str, Artifact], network: nn.Module, spec: Preprocess, summary: dict[str, Any]
) -> None:
    calibration = load_calibration_set(inputs["calibrate"].path("calibration.npz"), spec)
    chosen = [round(index * 29 / (IMAGES - 1)) for index in range(IMAGES)]
    assert set(calibration.labels[chosen]) == {0, 1, 2}  # the set is sorted by class: its first images are of one
    for name, block in by_name(summary).items():
        values = hooked(network, spec, calibration.images[chosen], name)
        expected = {
            "amax": np.abs(values).max(axis=0), "mean_abs": np.abs(values).mean(axis=0), "zeros": (values == 0).mean(axis=0)
        }  # fmt: skip
        for key, numbers in expected.items():
            difference = np.abs(np.array(block["per_channel"][key]) - numbers) / np.maximum(numbers.max(), 1e-9)
            assert difference.max() < 1e-3, f"{name} {key}: max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_snr_and_error_shares_are_those_of_the_int8_graph(
    inputs: dict[str, Artifact], spec: Preprocess, summary: dict[str, Any], tmp_path: Path
) -> None:
    folder = inputs["quantize"].folder
    calibration = load_calibration_set(folder / "calibration.npz", spec).images
    images = calibration[[round(index * 29 / (IMAGES - 1)) for index in range(IMAGES)]]
    taps, _ = find_blocks(onnx.load(folder / "fp32.onnx"))
    tensors = []
    for graph in ("fp32", "int8-onnxruntime"):
        names = write_tapped(folder / f"{graph}.onnx", tmp_path / "tapped.onnx", taps)
        with onnxruntime_backend.load(tmp_path / "tapped.onnx", 1) as runner:
            outputs = runner.infer({INPUT: images})
        tensors.append({name: outputs[output].astype(np.float64) for name, output in names.items()})
    for name, block in by_name(summary).items():
        error = tensors[1][name] - tensors[0][name]
        snr = 10 * np.log10((tensors[0][name] ** 2).sum() / (error**2).sum())
        assert block["snr_db"] == pytest.approx(snr, abs=0.1) and 5 < snr < 120
        axes = (0, 2, 3) if error.ndim == 4 else (0, 1)
        share = (error**2).sum(axis=axes) / (error**2).sum()
        assert block["per_channel"]["error_share"] == pytest.approx(share.tolist(), abs=0.01)
        assert block["worst_error"][0]["channel"] == int(np.argmax(block["per_channel"]["error_share"]))


def test_fp16_on_openvino(image_root: Path, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """OpenVINO drops the casts of tapped FP16 tensors, and then names outputs by another of the tensor's names."""
    found = visualize(image_root, inputs, tmp_path / "visualize", backend="openvino", precision="fp16")
    assert found["engine"] == "openvino-fp16" and found["reason"] == ""
    for block in found["blocks"]:
        assert 0 < block["relative_error"] < 0.02, block["name"]
        assert block["graph_snr_db"] is not None and "its graph" not in describe_block(block)


def test_an_engine_that_loses_more_than_its_graph_is_named(
    image_root: Path,
    inputs: dict[str, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    summary: dict[str, Any],
) -> None:
    """An OpenVINO that gets the first block right and the second one wrong."""
    load = engines.openvino_backend.load

    def miscompile(path: Path, threads: int, **options: Any) -> Any:
        runner = load(path, threads, **options)
        infer = runner.infer

        def wrong(feeds: Any) -> dict[str, Any]:
            outputs = infer(feeds)
            name = list(outputs)[2]  # logits, layer1.0, layer1.1
            return outputs | {name: outputs[name] * 0.5}

        runner.infer = wrong  # type: ignore[method-assign]
        return runner

    monkeypatch.setattr(engines.openvino_backend, "load", miscompile)
    found = by_name(visualize(image_root, inputs, tmp_path / "visualize", backend="openvino", precision="fp16"))
    assert [name for name, block in found.items() if "its graph: " in describe_block(block)] == ["layer1.1"]
    assert found["layer1.1"]["snr_db"] == pytest.approx(20 * np.log10(2), abs=0.1)
    assert all(block["graph_snr_db"] is None for block in summary["blocks"])  # ONNX Runtime is its own reference


def test_an_engine_that_cannot_run_here_leaves_fp32_alone(
    image_root: Path, inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], summary: dict[str, Any],
) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise Unavailable("no NVIDIA GPU here")

    monkeypatch.setattr(visualize_stage, "build_engine", refuse)
    folder = tmp_path / "run" / ".visualize.partial"
    found = visualize(image_root, inputs, folder, backend="tensorrt")
    assert found["engine"] == "tensorrt-int8" and found["reason"] == "no NVIDIA GPU here"
    printed = capsys.readouterr().out
    assert "tensorrt-int8 does not run here, so FP32 is shown alone: no NVIDIA GPU here\n" in printed
    assert (
        f"see {tmp_path / 'run' / 'visualize' / 'features.png'}; next: t2t-edge report --run run, same --recipe\n"
        in printed
    )
    for block, beside in zip(found["blocks"], summary["blocks"], strict=True):
        assert (block["dead"], block["exploding"]) == (beside["dead"], beside["exploding"])
        assert block["snr_db"] is None and block["per_channel"]["error_share"] is None and block["worst_error"] == []
    assert {path.name for path in folder.iterdir()} == {"features.png", "attention.png", "channels.json"}
    section = html_of(features_section(read_features(artifact(folder))))
    assert "tensorrt-int8 did not run here: no NVIDIA GPU here." in section and "FP32 alone" in section


def test_other_failures_of_a_build_are_reasons_too(
    image_root: Path, inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InputError("this graph cannot be parsed", got="node_00003")

    monkeypatch.setattr(engines.openvino_backend, "build", fail)
    found = visualize(image_root, inputs, tmp_path / "visualize", backend="openvino")
    assert found["reason"] == "this graph cannot be parsed got: node_00003"


def test_blocks_are_evenly_spaced(image_root: Path, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    found = visualize(image_root, inputs, tmp_path / "visualize", blocks=2, channels=3, image=29, precision="fp32")
    assert list(by_name(found)) == ["layer1.0", "blocks.1"] and found["not_shown"] == ["layer1.1", "blocks.0"]
    assert all(len(block["shown"]) == 3 for block in found["blocks"])
    assert found["image"]["class"] == "class_2"
    assert all(block["relative_error"] == 0 and block["snr_db"] is None for block in found["blocks"])
    assert describe_block(found["blocks"][0]).endswith("SNR exact")


def test_a_network_without_maps(
    image_root: Path, inputs: dict[str, Artifact], spec: Preprocess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("Cast", [INPUT], ["x"], "node_00000", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["logits"], "node_00001", keepdims=0),
    ]
    proto = helper.make_model(
        helper.make_graph(
            nodes, "mean", [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", 32, 32, 3])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
            [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
        ),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    set_metadata(proto, {PREPROCESS_KEY: json.dumps(spec.to_dict()), CLASSES_KEY: json.dumps(CLASSES)})
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    for name in ("fp32", *(f"int8-{backend}" for backend in OWN_GRAPHS)):
        onnx.save(proto, graphs / f"{name}.onnx")
    found = visualize(image_root, inputs | {"quantize": artifact(graphs)}, tmp_path / "visualize")
    assert found["blocks"] == [] and "no block of this network has feature maps as output" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "visualize").iterdir()] == ["channels.json"]
    assert features_section(read_features(artifact(tmp_path / "visualize"))) is None


def test_an_image_that_is_not_there(image_root: Path, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"(?s)past the last evaluation image.*got: 30.*0 to 29.*change visualize.image"
    ):
        visualize(image_root, inputs, tmp_path / "visualize", image=30)


@pytest.mark.parametrize(
    ("visualize_part", "message"),
    [
        ({"precision": "int8-fp16"}, "visualize.precision asks for int8-fp16, which quantize.precisions does not make"),
        ({"blocks": 1}, "visualize.blocks = 1"),
        ({"image": -1}, "visualize.image = -1"),
        ({"backend": "coreml"}, "visualize.backend = 'coreml'"),
        ({"layers": 3}, "visualize.layers: no such key"),
    ],
)
def test_wrong_recipe(image_root: Path, tmp_path: Path, visualize_part: dict[str, Any], message: str) -> None:
    values = recipe_values(image_root, **visualize_part) | {"quantize": {"precisions": ["fp32", "int8"]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("made", "asked", "precision"),
    [
        (["fp32", "int8", "fp16"], None, "int8"),
        (["fp32", "fp16"], None, "fp16"),
        (["fp32"], None, "fp32"),
        (["fp32", "fp16", "int8"], "fp16", "fp16"),
    ],
)
def test_the_precision_is_int8_where_it_is_made(
    image_root: Path, made: list[str], asked: str | None, precision: str
) -> None:
    values = recipe_values(image_root, precision=asked) | {"quantize": {"precisions": made}}
    assert Recipe.model_validate(values).visualized_precision() == precision


def test_it_is_a_stage_and_the_report_reads_it() -> None:
    names = [stage.name for stage in STAGES]
    assert names.index("quantize") < names.index("visualize") < names.index("report")
    assert "visualize" in next(stage for stage in STAGES if stage.name == "report").inputs
    assert set(names) <= {*STAGE_HELP, "report"}


def pixels(picture: bytes, colour: tuple[int, int, int]) -> int:
    """How many have exactly this colour."""
    array = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return int((array == colour).all(axis=2).sum())


def test_marks_are_in_the_picture_where_there_are_any(summary: dict[str, Any]) -> None:
    """Against the same picture without marks: only the legend's are left."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (32, 32, 3)).astype(np.uint8)
    shown = [generator.normal(size=(len(block["shown"]), 4, 4)) for block in summary["blocks"]]
    pictures = [Picture(maps, maps + 0.1) for maps in shown]
    plain = json.loads(json.dumps(summary))
    for block in plain["blocks"]:
        block["dead"], block["exploding"] = [], []
    marked, unmarked = draw_features(summary, pictures, image), draw_features(plain, pictures, image)
    assert Image.open(io.BytesIO(marked)).size[0] == 1600
    for colour, squares in ((ORANGE, 4), (BLUE, 2)):  # in both columns; a frame and its letter's field
        assert 0 < pixels(unmarked, colour) < 700
        assert pixels(marked, colour) > pixels(unmarked, colour) + 500 * squares
    alone = draw_features(plain | {"reason": "no GPU"}, [Picture(maps, None) for maps in shown], image)
    assert alone != unmarked and pixels(alone, (255, 255, 255)) > pixels(unmarked, (255, 255, 255))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_maps_that_are_not_finite_or_all_the_same_are_drawn(summary: dict[str, Any], value: float) -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    pictures = [
        Picture(np.full((len(b["shown"]), 4, 4), value), np.full((len(b["shown"]), 4, 4), value))
        for b in summary["blocks"]
    ]
    assert draw_features(summary, pictures, image).startswith(b"\x89PNG")


def test_attention_is_brightest_where_its_weight_is(summary: dict[str, Any]) -> None:
    """One token looks at the upper left corner, the other at the lower right one of the same grey image."""
    first, second = np.zeros((4, 4)), np.zeros((4, 4))
    first[0, 0] = second[3, 3] = 1
    one_row = summary | {"attention": [{"name": "tokenizer", "tokens": 2, "grid": [4, 4]}]}
    image = np.full((32, 32, 3), 128, dtype=np.uint8)
    picture = draw_attention(one_row, [np.stack((first, second))], image)
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L")).astype(int)
    body = grey[150:, 300:]  # below the head, right of the name
    dark_rows, dark_columns = (
        np.flatnonzero((body < 100).sum(axis=1) > 50),
        np.flatnonzero((body < 100).sum(axis=0) > 50),
    )
    assert dark_rows.size and dark_columns.size
    top, bottom, left = dark_rows[0], dark_rows[-1], dark_columns[0]
    side = bottom - top + 1
    square = body[top : bottom + 1, left : left + side]
    quarter = side // 4
    assert square[5 : quarter - 5, 5 : quarter - 5].mean() > square[-quarter + 5 : -5, -quarter + 5 : -5].mean() + 80


class _Page(HTMLParser):
    """Checks that tags close; keeps pictures and texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.rows: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        else:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "tr" in self.open:
            self.rows[-1] += f" {data}"


def html_of(section: Section | None) -> str:
    assert section is not None
    return str(section.body)


def test_the_reports_section(finished: Path, summary: dict[str, Any]) -> None:
    page = _Page(html_of(features_section(read_features(artifact(finished)))))
    assert len(page.images) == 2
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.images)
    text = page.images[0]["alt"] or ""
    assert "Feature maps of 4 blocks, FP32 beside onnxruntime-int8" in text
    assert "layer1.1 1 dead and 0 exploding" in text and "blocks.0 0 dead and 1 exploding" in text
    assert len(page.rows) == 1 + 4
    assert f"channel {EXPLODING} sets the scale" in page.rows[3] and "16 × 16" in page.rows[3]
    assert features_section(None) is None


def test_the_section_escapes_what_it_shows(summary: dict[str, Any]) -> None:
    evil = '<script>alert("x")</script>&"\''
    changed = json.loads(json.dumps(summary)) | {"engine": evil, "reason": evil}
    changed["blocks"][0]["name"] = evil
    changed["blocks"][0]["dead"] = [1]
    section = html_of(features_section(FeatureMaps(changed, b"png", None)))
    assert "<script" not in section and "script" not in _Page(section).tags
    assert evil in _Page(section).rows[1]
