"""Q, K and V on one scale: one range for the three, and the network computes what it did."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from export.forms.one_scale import Together, scale_qkv
from export.graph.roles import attention_products
from export.onnx_export import INPUT
from export.quantize.ranges import collect_ranges

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def before(small_onnx: Path) -> onnx.ModelProto:
    """Its weights are small, so K's and V's are made larger by different factors: ranges that differ."""
    proto = onnx.load(small_onnx / "fp32.onnx")
    stored = {value.name: value for value in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "MatMul" and "attn.qkv" in str(node.metadata_props):
            weight = numpy_helper.to_array(stored[node.input[1]]).copy()
            third = weight.shape[1] // 3
            weight[:, third : 2 * third] *= 3
            weight[:, 2 * third :] *= 7
            stored[node.input[1]].CopyFrom(numpy_helper.from_array(weight, node.input[1]))
    return proto


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def scaled(proto: onnx.ModelProto, images: np.ndarray) -> tuple[onnx.ModelProto, list[Together]]:
    products = [node for node in proto.graph.node if node.op_type == "MatMul"]
    tensors = [name for pair in attention_products(proto) for node in pair for name in (*node.input, *node.output)]
    ranges = {name: of.amax for name, of in collect_ranges(proto, tensors, [images]).items()}
    return scale_qkv(proto, {node.name for node in products}, ranges)


def logits(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT: images})[0])


def test_the_network_computes_the_same(before: onnx.ModelProto, images: np.ndarray) -> None:
    after, done = scaled(before, images)
    assert len(done) == 4, "one for each block"
    difference = np.abs(logits(after, images) - logits(before, images)).max()
    assert difference < 2e-5, difference


def test_the_three_have_one_range(before: onnx.ModelProto, images: np.ndarray) -> None:
    after, done = scaled(before, images)
    for of in done:
        (product,) = [node for node in after.graph.node if node.name == of.product]
        (split,) = [node for node in after.graph.node if node.op_type == "Split" and node.input[0] == product.output[0]]
        found = collect_ranges(after, list(split.output), [images])
        assert [found[name].amax for name in split.output] == pytest.approx(
            [of.ranges[product.output[0]]] * 3, rel=1e-4
        )


def test_an_attention_that_is_not_int8_stays(before: onnx.ModelProto, images: np.ndarray) -> None:
    after, done = scale_qkv(before, set(), {})
    assert not done and after.SerializeToString() == before.SerializeToString()
