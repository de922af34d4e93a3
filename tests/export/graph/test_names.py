"""Reading which module a node came from, without the onnx package: held against it."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.graph import names as onnx_nodes
from export.graph.names import name_modules, read_modules
from export.onnx_export import MODULE_KEY


def write(path: Path) -> onnx.ModelProto:
    """Three nodes, of which one has no module and one no metadata at all; long texts, so that lengths take two bytes."""
    nodes = [helper.make_node("Relu", [f"x{index}"], [f"x{index + 1}"], f"node_{index:05d}") for index in range(3)]
    nodes[0].doc_string = "ä" * 500
    nodes[0].metadata_props.add(key="other", value="x" * 300)
    nodes[0].metadata_props.add(key=MODULE_KEY, value="model.blocks.3.attn.qkv")
    nodes[1].metadata_props.add(key=MODULE_KEY, value="")
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x0", "x3")]
    graph = helper.make_graph(
        nodes, "g", tensors[:1], tensors[1:], [helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, path)
    return model


def test_modules_are_those_that_onnx_reads(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write(path)
    assert read_modules(path) == {"node_00000": "blocks.3.attn.qkv"}
    assert onnx_nodes.MODULE_KEY == MODULE_KEY


@pytest.mark.parametrize("keep", [0, 1, 5, 40, 900, -1])
def test_a_file_cut_off_gives_what_could_be_read(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "net.onnx"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    assert read_modules(path).items() <= {"node_00000": "blocks.3.attn.qkv"}.items()


@pytest.mark.parametrize("content", [b"this is no ONNX", b"\xff" * 100, b"\x3a\x7f\x0a", bytes(range(256))])
def test_what_is_no_onnx_has_no_modules(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert read_modules(path) == {}


def test_a_text_is_given_the_modules_once() -> None:
    modules = {"node_00007": "blocks.0.mlp.fc1", "node_00009": "head"}
    text = "no kernel for {ForeignNode[node_00007...node_00009]}; [ONNX Layer: node_00007]; node_00070"
    assert name_modules(text, modules) == (
        "no kernel for {ForeignNode[node_00007 of module blocks.0.mlp.fc1...node_00009 of module head]}; "
        "[ONNX Layer: node_00007]; node_00070"
    )
