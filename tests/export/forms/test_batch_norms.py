"""BatchNorm in the weights of the product before it: the same numbers, and only where that is all there is."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from engine_graphs import photographs
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from timm.models.levit import Levit

from calib.preprocess import Preprocess
from export.engines import openvino_backend
from export.forms.batch_norms import fold_batch_norms
from export.onnx_export import MODULE_KEY, export_onnx, node_metadata
from export.quantize.dialects import DIALECTS
from export.quantize.int8 import quantize_int8
from export.simplify import simplify_onnx

EMBEDDED = Path(__file__).parents[3] / "data" / "fashion-mnist.npz"
TOKENS, WIDE, NARROW = 5, 4, 6
GRAPH = """<ir_version: 9, opset_import: ["" : 20]>
g (double[B,5,4] x) => (double[B,5,6] y) {{
   a = MatMul(x, w)
   {between}
   {of} = BatchNormalization<epsilon = 0.001>({by}, scale, bias, mean, variance)
   {after}
}}"""
ROWS = {
    "between": "r = Reshape(a, rows)", "by": "r", "of": "n", "after": "y = Reshape(n, tokens)",
}  # fmt: skip


def graph(**parts: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(GRAPH.format(**(ROWS | parts)))
    rng = np.random.default_rng(0)
    values = {
        "w": rng.normal(size=(WIDE, NARROW)), "scale": rng.normal(size=NARROW), "bias": rng.normal(size=NARROW),
        "mean": rng.normal(size=NARROW), "variance": rng.uniform(0.1, 2, NARROW),
        "rows": np.array([-1, NARROW]), "tokens": np.array([-1, TOKENS, NARROW]),
        "other": np.array([-1, NARROW, TOKENS]),
    }  # fmt: skip
    used = {name for node in proto.graph.node for name in node.input}
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index:05d}"
        node.metadata_props.add(key=MODULE_KEY, value=f"block.{node.op_type}")
    proto.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in values.items() if name in used
    )
    return proto


def run(proto: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(3, TOKENS, WIDE))
    return np.asarray(ReferenceEvaluator(proto).run(None, {"x": x})[0])


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_it_is_the_same_in_float64() -> None:
    before, after = graph(), graph()
    assert fold_batch_norms(after) == 1
    assert operators(after) == ["MatMul", "Add", "Reshape", "Reshape"]
    assert np.abs(run(after) - run(before)).max() < 1e-12
    assert node_metadata(after.graph.node[0], MODULE_KEY) == "block.MatMul", "policies go by modules"
    assert {value.data_type for value in after.graph.initializer} == {TensorProto.DOUBLE, TensorProto.INT64}
    assert "variance" not in {value.name for value in after.graph.initializer}
    onnx.checker.check_model(after, full_check=True)


@pytest.mark.parametrize(
    "parts",
    [
        {"between": "t = Reshape(a, other)  r = Transpose<perm = [0, 2, 1]>(t)", "after": "y = Identity(n)"},  # no rows
        {"between": "b = Relu(a)  r = Reshape(b, rows)"},
        {"between": "", "by": "a", "after": "y = Identity(n)"},  # over what are tokens here
        {"after": "z = Reshape(n, tokens)  y = Add(z, a)"},  # the product is taken twice
        {"between": "r = Reshape(a, rows)", "after": "z = Add(n, r)  y = Reshape(z, tokens)"},
    ],
)
def test_it_is_left_where_it_is_not_the_products_own(parts: dict[str, str]) -> None:
    proto = graph(**parts)
    before = proto.SerializeToString()
    assert fold_batch_norms(proto) == 0 and proto.SerializeToString() == before


def test_levit_on_openvino(tmp_path: Path) -> None:
    """OpenVINO threw on its INT8 graph, and each of the norms was a kernel."""
    torch.manual_seed(0)
    network = Levit(
        img_size=112, embed_dim=(32, 48), key_dim=8, depth=(1, 1), num_heads=(2, 3), mlp_ratio=2, num_classes=3
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    calibration = photographs(EMBEDDED, 112)
    raw, fp32, int8 = (tmp_path / f"{name}.onnx" for name in ("raw", "fp32", "int8"))
    export_onnx(network.eval(), Preprocess(112, 112, 1.0, "bilinear", (0.3,) * 3, (0.35,) * 3), list("abc"), raw)
    found = simplify_onnx(raw, fp32, calibration.images)
    assert found.accepted and found.nodes_before["BatchNormalization"] > 8
    assert found.nodes_after["BatchNormalization"] == 1, "the classifier's, which is before its product"
    quantize_int8(fp32, int8, calibration, dialect=DIALECTS["openvino"])
    engine = openvino_backend.build(int8, tmp_path / "engine.xml")
    assert engine.layers == {"int8": 18, "fp16": 0, "fp32": 1}, "the classifier is left in FP32"
