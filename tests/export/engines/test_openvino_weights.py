"""INT8 products on OpenVINO against numpy, where two of them added in 16 bits would overflow."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calib.precision.policy import Decision
from export.engines import openvino_backend
from export.engines.openvino_weights import STEPS, fit_16_bits
from export.graph.layers import read_layers
from export.quantize.qdq import insert_qdq

openvino = pytest.importorskip("openvino")
SHAPES = {"Conv": (8, 16, 3, 3), "Conv, groups": (8, 4, 3, 3), "Conv, depthwise": (16, 1, 3, 3), "MatMul": (64, 16)}
REDUCED = ["Conv", "Conv, groups", "MatMul"]


def write_product(path: Path, kind: str, bits: int = 8) -> NDArray[np.float32]:
    """One product with Q/DQ, its weights nearly all as large as its largest one; returns its input, bright as well."""
    generator = np.random.default_rng(0)
    weight = (generator.choice([0.9, 1, 0.2], SHAPES[kind]) * 0.1).astype(np.float32)
    operator = kind.split(",")[0]
    x = generator.uniform(0.6, 1, (2, 16, 8, 8) if operator == "Conv" else (2, 5, 64)).astype(np.float32)
    sizes = ["n", *x.shape[1:]]
    output = ["n", len(weight), 6, 6] if operator == "Conv" else ["n", 5, 16]
    groups = {"group": 16 // weight.shape[1]} if operator == "Conv" else {}
    product = helper.make_node(operator, ["r", "w"], ["y"], "product", **groups)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"], "relu"), product], "one",
        [helper.make_tensor_value_info("x", 1, sizes)], [helper.make_tensor_value_info("y", 1, output)],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (layer,) = (found for found in read_layers(proto) if found.name == "product")
    onnx.save(insert_qdq(proto, [Decision(layer, "", (0, 1))], {"r": 1.0}, weight_bits=bits), path)
    return x


def stored_weights(model: Any) -> list[NDArray[np.int8]]:
    constants = [node.get_data() for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    return [values for values in constants if values.dtype == np.int8 and values.size > 1 and values.any()]


@pytest.mark.parametrize("kind", SHAPES)
def test_a_product_of_large_values_does_not_saturate(tmp_path: Path, kind: str) -> None:
    """On a CPU without byte dot products; with 8 bits these are wrong there by two thirds, but for the depthwise one."""
    x = write_product(tmp_path / "one.onnx", kind)
    (expected,) = ReferenceEvaluator(onnx.load(tmp_path / "one.onnx")).run(None, {"x": x})
    engine = openvino_backend.build(tmp_path / "one.onnx", tmp_path / "engine.xml")
    assert engine.layers["int8"] == 1
    with openvino_backend.load(engine.path, 1) as runner:
        (y,) = runner.infer({"x": x}).values()
    error = np.abs(y - expected) / np.abs(expected).max()
    assert error.max() < 0.01, f"max {error.max():.3f}, mean {error.mean():.3f}"


@pytest.mark.parametrize("kind", REDUCED)
def test_seven_bits_keep_the_largest_weights(tmp_path: Path, kind: str) -> None:
    x = write_product(tmp_path / "one.onnx", kind)
    (expected,) = ReferenceEvaluator(onnx.load(tmp_path / "one.onnx")).run(None, {"x": x})
    model = openvino.Core().read_model(str(tmp_path / "one.onnx"))
    (before,) = stored_weights(model)
    assert fit_16_bits(model) == 1
    (after,) = stored_weights(model)
    assert np.abs(before).max() == 127 and np.abs(after).max() == STEPS and 2 * 255 * STEPS < 2**15
    np.testing.assert_allclose(after / STEPS, before / 127, atol=0.5 / STEPS + 1e-6)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    y = compiled(x)[0]
    error = np.abs(y - expected) / np.abs(expected).max()
    assert error.max() < 0.01, f"max {error.max():.3f}, mean {error.mean():.3f}"
    assert fit_16_bits(model) == 0


@pytest.mark.parametrize(("kind", "bits", "steps"), [("MatMul", 4, 7), ("Conv, depthwise", 8, 127)])
def test_weights_that_cannot_saturate_stay(tmp_path: Path, kind: str, bits: int, steps: int) -> None:
    write_product(tmp_path / "one.onnx", kind, bits)
    model = openvino.Core().read_model(str(tmp_path / "one.onnx"))
    assert fit_16_bits(model) == 0
    (kept,) = stored_weights(model)
    assert np.abs(kept).max() == steps
