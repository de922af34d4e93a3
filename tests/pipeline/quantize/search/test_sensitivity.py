"""The sensitivity stage: against numpy, one layer at a time, resumed after an interruption; its picture."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image
from scipy.special import softmax
from scipy.stats import entropy
from small_graph import write_graph

from calib.calibration import CalibrationSet, make_calibration_set
from calib.images import read_split
from calib.precision.policy import decide
from calib.precision.sensitivity import alone, group_of
from calib.preprocess import Preprocess
from export.engines.sidecar import sha256_of
from export.graph.layers import read_layers
from export.onnx_export import MODULE_KEY, OUTPUT
from export.quantize.int8 import QuantizeOptions, find_ranges, write_quantized
from pipeline.artifact import Artifact
from pipeline.quantize.search import sensitivity_stage
from pipeline.quantize.search.sensitivity_picture import draw_sensitivity, sections, shorten
from pipeline.recipe import Recipe

pytestmark = pytest.mark.slow

NODES = {  # node: (operator, inputs, output, module)
    "first": ("MatMul", ["patches", "w0"], "a", "blocks.0.fc"),
    "relu": ("Relu", ["a"], "b", "blocks.0"),
    "second": ("MatMul", ["b", "w1"], "c", "blocks.1.fc"),
    "sum": ("Add", ["c", "b"], "d", "blocks.1"),
    "less": ("Min", ["b", "nothing"], "e", "blocks.2"),  # always zero
    "dead": ("MatMul", ["e", "w2"], "f", "blocks.2.off"),
    "deadsum": ("Add", ["f", "d"], "g", "blocks.2"),
    "mean": ("ReduceMean", ["g", "axes"], "h", "pool"),
    "last": ("MatMul", ["h", "w3"], OUTPUT, "head"),
}
LAYERS = ["first", "second", "sum", "deadsum", "last"]
GROUPS = {"blocks.*.fc": ["first", "second"], "blocks.* (residual)": ["sum", "deadsum"], "head": ["last"]}
TRIALS = 7  # five layers, two groups of more than one


def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    shapes = {"w0": (192, 8), "w1": (8, 8), "w2": (8, 8), "w3": (8, 3)}
    made = {name: generator.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {"w0": made["w0"] / 400}


def write_blocks(path: Path, spec: Preprocess) -> None:
    """Two blocks, a dead branch and a head."""
    nodes = []
    for name, (operator, inputs, output, module) in NODES.items():
        node = helper.make_node(operator, inputs, [output], name=name, **({"keepdims": 0} if name == "mean" else {}))
        helper.set_metadata_props(node, {MODULE_KEY: module})
        nodes.append(node)
    write_graph(path, nodes, weights() | {"nothing": np.zeros(1, np.float32)}, spec)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, image_root: Path, spec: Preprocess) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_blocks(folder / "fp32.onnx", spec)
    make_calibration_set(read_split(image_root, "train"), spec, 30, 0, folder / "calibration.npz")
    return folder


def recipe(**quantize: Any) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "data": {"name": "photographs", "root": "nowhere"}, "quantize": quantize,
        "model": {"name": "small", "image_size": 32}, "build": [], "sensitivity": {"images": 12},
        "benchmark": {"threads": 1},
    })  # fmt: skip


def inputs(workplace: Path) -> dict[str, Artifact]:
    def artifact(name: str) -> Artifact:
        return Artifact(workplace, "key", {name: sha256_of(workplace / name)}, {}, {}, 0.0)

    return {"export": artifact("fp32.onnx"), "calibrate": artifact("calibration.npz")}


class Runs:
    """Stands in for `compute_logits`: counts and keeps the graphs that are run, interrupts at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interrupt_at: int = -1):
        self.graphs: list[onnx.ModelProto] = []
        self._real, self._interrupt_at = sensitivity_stage.compute_logits, interrupt_at
        monkeypatch.setattr(sensitivity_stage, "compute_logits", self)

    def __call__(self, proto: onnx.ModelProto, images: np.ndarray, threads: int) -> np.ndarray:
        if len(self.graphs) == self._interrupt_at:
            raise KeyboardInterrupt
        self.graphs.append(proto)
        return self._real(proto, images, threads)


def start(tmp_path: Path) -> Path:
    folder = tmp_path / ".sensitivity.partial"
    folder.mkdir(parents=True)
    return folder


def run(workplace: Path, folder: Path, **quantize: Any) -> dict[str, Any]:
    sensitivity_stage.run(recipe(**quantize), inputs(workplace), folder)
    return json.loads((folder / "sensitivity.json").read_text(encoding="utf-8"))


def quantized_nodes(proto: onnx.ModelProto) -> set[str]:
    """Nodes that take a dequantized tensor."""
    made = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    return {node.name for node in proto.graph.node if made & set(node.input)}


def test_files_and_rows(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = start(tmp_path)
    study = run(workplace, folder)
    assert study["images"] == 12
    assert [row["node"] for row in study["layers"]] == LAYERS
    assert {row["group"]: row["nodes"] for row in study["groups"]} == GROUPS
    assert [(row["node"], row["reason"]) for row in study["left_out"]] == [
        ("dead", "an activation of it is always zero")
    ]
    by_node = {row["node"]: row for row in study["layers"]}
    head = next(row for row in study["groups"] if row["group"] == "head")
    assert all(head[key] == by_node["last"][key] for key in ("kl", "snr_db", "agreement"))
    assert all(row["kl"] > 0 and row["snr_db"] > 10 for row in study["layers"])
    said = capsys.readouterr().out
    assert "5 layers and 3 groups" in said and "left out: blocks.2.off: an activation of it is always zero" in said
    assert "next: t2t-edge search" in said
    assert said.index(max(study["groups"], key=lambda row: row["kl"])["group"]) < said.index("next:")


def fake_quantize(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    amax = np.abs(values).max() if axis is None else np.abs(values).max(axis=1 - axis, keepdims=True)
    scale = (amax / 127).astype(np.float32)
    return (np.clip(np.rint(values / scale), -128, 127) * scale).astype(np.float32)


def four_bits(values: np.ndarray) -> np.ndarray:
    """Each column on seven steps of each sign, the range the share of its largest value with the least squared error."""

    def on_grid(column: np.ndarray, share: float) -> np.ndarray:
        scale = share * np.abs(column).max() / 7
        return np.clip(np.rint(column / scale), -7, 7) * scale

    shares = np.arange(30, 101, 2) / 100
    tried = [[on_grid(column, share) for share in shares] for column in values.T.astype(np.float64)]
    best = [min(grids, key=lambda one: float(np.square(one - column).sum()))
            for grids, column in zip(tried, values.T, strict=True)]  # fmt: skip
    return np.stack(best, axis=1).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_is_what_numpy_computes(workplace: Path, tmp_path: Path, bits: int) -> None:
    """The head alone: its input per tensor, with the largest magnitude of all calibration images; weights per column."""
    study = run(workplace, start(tmp_path), weight_bits=bits)
    with np.load(workplace / "calibration.npz") as stored:
        images = stored["images"]
    w = weights()
    patches = images.astype(np.float32).reshape(len(images), 16, 192)
    b = np.maximum(patches @ w["w0"], 0)
    pooled = (b @ w["w1"] + b).mean(axis=1)
    chosen = [index * 30 // 12 for index in range(12)]
    reference = (pooled @ w["w3"])[chosen]
    weight = fake_quantize(w["w3"], axis=1) if bits == 8 else four_bits(w["w3"])
    quantized = (fake_quantize(pooled) @ weight)[chosen]
    p, q = (softmax(values.astype(np.float64), axis=1) for values in (reference, quantized))
    row = next(row for row in study["layers"] if row["node"] == "last")
    assert row["kl"] == pytest.approx(np.mean(entropy(p, q, axis=1)), rel=1e-2)
    snr = 10 * np.log10(np.sum(reference**2) / np.sum((reference - quantized) ** 2))
    assert row["snr_db"] == pytest.approx(snr, abs=0.05)
    assert row["agreement"] == pytest.approx(100 * np.mean(reference.argmax(1) == quantized.argmax(1)))


def test_each_run_has_one_layer_or_group_quantized(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch)
    run(workplace, start(tmp_path))
    groups = [set(nodes) for nodes in GROUPS.values() if len(nodes) > 1]
    assert [quantized_nodes(proto) for proto in runs.graphs] == [set(), *({name} for name in LAYERS), *groups]


def test_alone_in_a_real_network(small_onnx: Path, spec: Preprocess, image_root: Path, tmp_path: Path) -> None:
    """t2t_vit_mini: every product and residual sum, the performer's kernel too; a context's output goes on quantized."""
    calibration = make_calibration_set(read_split(image_root, "train"), spec, 4, 0, tmp_path / "calibration.npz")
    proto = onnx.load(small_onnx / "fp32.onnx")
    decisions = [alone(decision.layer) for decision in decide(read_layers(proto), "full")]
    found = find_ranges(proto, decisions, CalibrationSet(calibration.images, calibration.labels), QuantizeOptions())
    layers = [trial for trial in sensitivity_stage._trials(found) if trial.name[0] == "layer"]
    one_of_each = {group_of(trial.decisions[0].layer): trial for trial in layers}.values()
    users: dict[str, set[str]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.name)
    outputs = {node.name: node.output[0] for node in proto.graph.node}
    assert len(layers) == sum(of.int8 for of in found.decisions) > 50  # the rest is too faint
    assert {decision.layer.role for decision in decisions} > {"context", "residual"}
    for trial in one_of_each:
        (decision,) = trial.decisions
        single = write_quantized(proto, sensitivity_stage.replace(found, decisions=[decision]))
        expected = {decision.layer.name} | (users[outputs[decision.layer.name]] if decision.output else set())
        assert quantized_nodes(single) == expected, decision.layer


@pytest.mark.parametrize("stop", [0, 1, 4, TRIALS])
def test_an_interrupted_run_goes_on(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole = start(tmp_path / "whole")
    run(workplace, whole)
    folder = start(tmp_path / "torn")
    with monkeypatch.context() as patch:
        Runs(patch, interrupt_at=stop)
        with pytest.raises(KeyboardInterrupt):
            run(workplace, folder)
    done = max(stop - 1, 0)  # the first graph is FP32
    assert len((folder / "rows.jsonl").read_text().splitlines()) == done
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"key": "abc", "kind": "lay')  # torn
    monkeypatch.setattr(sensitivity_stage, "find_ranges", None)  # ranges are there, too
    runs = Runs(monkeypatch)
    run(workplace, folder)
    assert len(runs.graphs) == 1 + TRIALS - done
    for name in ("sensitivity.json", "rows.jsonl", "sensitivity.png"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_rows_of_another_graph_or_method_are_not_taken_over(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = start(tmp_path)
    first = run(workplace, folder)
    runs = Runs(monkeypatch)
    assert run(workplace, folder) == first and not runs.graphs
    rows = [
        json.loads(line) | {"key": "foreign", "kl": 99.0} for line in (folder / "rows.jsonl").read_text().splitlines()
    ]
    (folder / "rows.jsonl").write_text("\n".join([*map(json.dumps, rows), "[1]", "{}", ""]))
    assert run(workplace, folder) == first and len(runs.graphs) == 1 + TRIALS
    assert run(workplace, folder, weight_bits=4) != first and len(runs.graphs) == 2 * (1 + TRIALS)
    assert run(workplace, folder, method="percentile", percentile=90) != first
    assert len(runs.graphs) == 3 * (1 + TRIALS)


def test_a_finished_run_of_the_same_inputs_is_taken_over(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes only the stage's key, such as `quantize.precisions`, measures nothing again."""
    partial = start(tmp_path)
    first = run(workplace, partial)
    partial.rename(tmp_path / "sensitivity")
    runs = Runs(monkeypatch)
    assert run(workplace, start(tmp_path), policy="full", precisions=["fp32", "int8"]) == first and not runs.graphs
    assert (partial / "rows.jsonl").read_text() == (tmp_path / "sensitivity" / "rows.jsonl").read_text()


def test_smoothquant_is_max_and_says_so(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(workplace, start(tmp_path / "max"))
    assert "smoothquant" not in capsys.readouterr().out
    assert run(workplace, start(tmp_path / "smooth"), method="smoothquant") == first
    assert "without smoothing" in capsys.readouterr().out


def test_a_reference_that_is_not_finite_is_refused(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity_stage, "compute_logits", lambda *_: np.full((12, 3), np.nan, np.float32))
    with pytest.raises(RuntimeError, match="NaN or Inf"):
        run(workplace, start(tmp_path))


def synthetic(count: int, groups: int, kl: float | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    layers = [
        {"node": f"node_{i}", "module": f"blocks.{i // 10}.part{i % groups}", "role": "", "operator": "Conv",
         "group": f"blocks.*.part{i % groups}", "kl": float(10 ** rng.uniform(-9, -2)) if kl is None else kl,
         "snr_db": 30.0, "agreement": 99.0}
        for i in range(count)
    ]  # fmt: skip
    rows = [
        {"group": f"blocks.*.part{g}", "nodes": [row["node"] for row in layers[g::groups]], "kl": 1e-3 / (g + 1),
         "snr_db": 20.0, "agreement": 98.0}
        for g in range(min(groups, count))
    ]  # fmt: skip
    return {"images": 64, "method": "max", "weight_bits": 8, "layers": layers, "groups": rows}


@pytest.mark.parametrize(("count", "groups", "kl"), [(40, 12, None), (150, 60, None), (5, 5, 0.0), (0, 1, None)])
def test_the_picture(count: int, groups: int, kl: float | None) -> None:
    image = np.asarray(Image.open(io.BytesIO(draw_sensitivity(synthetic(count, groups, kl), "small"))).convert("RGB"))
    assert image.shape[1] == 1560 and image.shape[0] >= 800
    vermilion = (image == (0xD5, 0x5E, 0x00)).all(axis=2)
    assert vermilion.any() == bool(count)  # markers of the most sensitive group


def test_sections_and_short_names() -> None:
    modules = ["tokens_to_token.attention1.mlp.0", "tokens_to_token.attention1", "tokens_to_token", "blocks.0.attn.qkv",
               "blocks.0", "blocks.1.mlp", "stages.0.blocks.2.conv", "head"]  # fmt: skip
    found = [(part.name, part.first, part.last) for part in sections([{"module": name} for name in modules])]
    assert found == [
        ("tokens_to_token.attention1", 0, 1), ("tokens_to_token", 2, 2), ("blocks.0", 3, 4), ("blocks.1", 5, 5),
        ("stages.0", 6, 6), ("head", 7, 7),
    ]  # fmt: skip
    assert shorten("tokens_to_token.attention1", 22) == "…attention1" and shorten("head", 22) == "head"
    assert shorten("x" * 30, 10) == "…" + "x" * 9
