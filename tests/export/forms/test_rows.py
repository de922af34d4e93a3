"""Normalisation by rows gives the same bits, keeps names, and is left alone where it is not ours."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from calib.preprocess import Preprocess
from export.forms.rows import normalise_by_rows
from export.onnx_export import INPUT, export_onnx
from export.simplify import simplify_onnx

SPEC = Preprocess(16, 24, 1.0, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)


def exported(tmp_path, spec: Preprocess, *, simplified: bool) -> onnx.ModelProto:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(spec.channels, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 24, 4)
    )
    export_onnx(network.eval(), spec, list("abcd"), tmp_path / "raw.onnx")
    if not simplified:
        return onnx.load(tmp_path / "raw.onnx")
    assert simplify_onnx(tmp_path / "raw.onnx", tmp_path / "fp32.onnx", IMAGES).accepted
    return onnx.load(tmp_path / "fp32.onnx")


def logits(proto: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: IMAGES})[0]


@pytest.mark.parametrize("simplified", [False, True])
def test_the_same_bits(tmp_path, simplified: bool) -> None:
    """With the division by std in the graph, and where it is in the first weights."""
    proto = exported(tmp_path, SPEC, simplified=simplified)
    rows = normalise_by_rows(proto)
    assert (logits(rows) == logits(proto)).all()
    before, after = ({node.name: node.op_type for node in of.graph.node} for of in (proto, rows))
    changed = {name for name in before if name not in after}
    assert {before[name] for name in changed} <= {"Transpose", "Sub", "Mul"} and len(changed) >= 2
    new = [node for node in rows.graph.node if node.name not in before]
    assert [node.op_type for node in new][-1] == "Transpose", "channels are put first behind the normalisation"
    assert {name for node in proto.graph.node for name in node.output if node.op_type == "Conv"} <= {
        name for node in rows.graph.node for name in node.output
    }
    constants = {value.name: list(value.dims) for value in rows.graph.initializer}
    (centred,) = [node for node in new if node.op_type == "Sub"]
    assert constants[centred.input[1]] == [3 * 24]


def test_what_is_not_ours_is_left_as_it_is(tmp_path) -> None:
    grey = Preprocess(16, 24, 1.0, "bilinear", (0.45,), (0.22,), "grey")
    proto = exported(tmp_path, grey, simplified=False)
    assert normalise_by_rows(proto) is proto
    twice = exported(tmp_path, SPEC, simplified=False)
    transposed = next(node for node in twice.graph.node if node.op_type == "Transpose")
    twice.graph.node.append(onnx.helper.make_node("Identity", [transposed.output[0]], ["taken_elsewhere"], "more"))
    assert normalise_by_rows(twice) is twice
