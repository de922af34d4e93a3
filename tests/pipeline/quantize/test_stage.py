"""The quantize stage on a small graph: what it says of its policy, and that its tables hold the scales of its graphs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_graph import write_graph

from calib.calibration import make_calibration_set
from calib.images import read_split
from calib.preprocess import Preprocess
from export.engines.sidecar import sha256_of
from export.engines.spec import graph_of
from export.onnx_export import FP32_TENSORS, MODULE_KEY, OUTPUT
from pipeline.artifact import Artifact
from pipeline.quantize import stage as quantize_stage
from pipeline.recipe import Recipe


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, image_root: Path, spec: Preprocess) -> dict[str, Artifact]:
    """A graph of two products on 16 patches of 192 values, the second too narrow for `weights`; and a calibration set."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    constants = {
        "w0": generator.normal(0, 0.05, (192, 32)).astype(np.float32),
        "w1": generator.normal(0, 0.5, (32, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["patches", "w0"], ["hidden"], name="wide"),
        helper.make_node("MatMul", ["hidden", "w1"], ["votes"], name="narrow"),
        helper.make_node("ReduceMean", ["votes", "axes"], [OUTPUT], name="mean", keepdims=0),
    ]
    for node in nodes:
        helper.set_metadata_props(node, {MODULE_KEY: f"blocks.{node.name}"})
    write_graph(folder / "fp32.onnx", nodes, constants, spec)
    make_calibration_set(read_split(image_root, "train"), spec, 30, 0, folder / "calibration.npz")
    made = Artifact(folder, "", {path.name: sha256_of(path) for path in folder.iterdir()}, {}, {}, 0.0)
    return {"export": made, "calibrate": made}


def quantize(
    inputs: dict[str, Artifact], folder: Path, build: list[dict[str, Any]] | None = None, **part: Any
) -> dict[str, Any]:
    recipe = Recipe.model_validate({
        "schema": 1, "data": {"name": "photographs", "root": "nowhere"}, "quantize": part,
        "model": {"name": "small", "image_size": 32}, "build": build or [],
    })  # fmt: skip
    return quantize_stage.run(recipe, inputs, folder)


def test_what_the_policy_names_but_does_not_take_is_said_and_kept(
    inputs: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = quantize(inputs, tmp_path, precisions=["fp32", "int8"])
    reason = "narrower than 16 channels"
    assert notes["quantized"]["int8"]["kinds"] == [
        {"kind": "weight layer", "quantized": 1, "named": 2, "left_out": {reason: 1}}
    ]
    printed = capsys.readouterr().out
    assert f"int8, best: 1 of the 2 weight layers that the policy names, because: {reason} (1)" in printed
    notes = quantize(inputs, tmp_path, precisions=["fp32", "int8"], policy="full")
    assert [row["quantized"] for row in notes["quantized"]["int8"]["kinds"]] == [2, 0, 0, 0]
    assert "that the policy names" not in capsys.readouterr().out, "nothing is left out"


def test_engines_in_bf16_have_the_graphs_with_fp32(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """Which list what stays in FP32, here nothing. No graph is written for BF16 itself."""
    quantize(inputs, tmp_path, precisions=["fp32", "bf16", "int8-bf16"])
    graphs = {path.stem: onnx.load(path) for path in tmp_path.glob("*.onnx")}
    assert {graph_of("openvino", name) for name in ("bf16", "int8-bf16")} == {"fp32", "int8-openvino"} <= set(graphs)
    for graph in graphs.values():
        assert {prop.key: prop.value for prop in graph.metadata_props}[FP32_TENSORS] == "[]"
    assert graphs["fp32"].graph == onnx.load(inputs["export"].path("fp32.onnx")).graph
    assert not list(tmp_path.glob("*bf16*"))


def test_the_graph_for_phones_is_written_where_the_recipe_builds_it(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    always = {"fp32", "int8", "int8-onnxruntime", "int8-openvino"}
    for name, precisions, more in (
        ("none", [], set()),
        ("fp32", ["fp32"], set()),
        ("int8", ["fp32", "int8"], {"int8-executorch"}),
    ):
        (tmp_path / name).mkdir()
        build = [{"backend": "executorch", "precisions": precisions}] if precisions else []
        quantize(inputs, tmp_path / name, build, precisions=["fp32", "int8"])
        assert {path.stem for path in (tmp_path / name).glob("*.onnx")} == always | more
    rows = json.loads((tmp_path / "int8" / "decisions-int8-executorch.json").read_text())
    wide = next(row for row in rows if row["node"] == "wide")
    assert wide["output"] and len(wide["activations"]) == 2, "XNNPACK makes INT8 of INT8"
    graph = onnx.load(tmp_path / "int8" / "int8-executorch.onnx")
    stored = {value.name: numpy_helper.to_array(value) for value in graph.graph.initializer}
    for row in wide["activations"]:
        low, high = min(row["low"], 0), max(row["high"], 0)
        assert row["scale"] == pytest.approx((high - low) / 255, rel=1e-6)
        assert stored[f"{row['tensor']}_activation_scale"] == pytest.approx(row["scale"], rel=1e-6)
        zero = stored[f"{row['tensor']}_activation_zero"]
        assert zero.dtype == np.int8 and zero == np.rint(-128 - low / row["scale"])
    assert stored["patches_activation_zero"] == -128, "pixels are never negative"


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_are_those_of_the_graphs(inputs: dict[str, Artifact], tmp_path: Path, bits: int) -> None:
    """INT8 on 127 steps, FP8 up to 448; `weight_bits` makes INT8's weights coarse, and FP8's never."""
    quantize(inputs, tmp_path, precisions=["fp32", "int8", "fp8"], weight_bits=bits)
    weight = np.abs(numpy_helper.to_array(onnx.load(tmp_path / "fp32.onnx").graph.initializer[2])).max(0)
    assert weight.shape == (32,)
    for base, highest in (("int8", 127), ("fp8", 448)):
        rows = json.loads((tmp_path / f"decisions-{base}.json").read_text())
        (shown,) = next(row for row in rows if row["node"] == "wide")["activations"]
        graph = onnx.load(tmp_path / f"{base}.onnx")
        stored = {
            value.name: numpy_helper.to_array(value) for value in graph.graph.initializer if "scale" in value.name
        }
        assert shown["scale"] == pytest.approx(float(stored["patches_activation_scale"]), rel=1e-6)
        assert shown["scale"] == pytest.approx(shown["amax"] / highest, rel=1e-6)
        if base == "fp8" or bits == 8:
            np.testing.assert_allclose(stored["wide_weight_scale"], weight / highest, rtol=1e-5)
        else:
            assert (stored["wide_weight_scale"] > 5 * weight / 127).all()
