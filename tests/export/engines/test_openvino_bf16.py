"""Engines in BF16: what a graph lists stays in FP32 in the graph that OpenVINO executes, or there is no engine.

CPUs with AVX-512 but without BF16 instructions emulate them, which no user gets: the tests say that they have them.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calib.calibration import CalibrationSet
from calib.images import read_split
from calib.precision.policy import performer_kernel
from calib.preprocess import Preprocess, load_batch
from export import cpu
from export.engines import onnxruntime_backend, openvino_backend, openvino_bf16
from export.engines.engine import build_engine, load_engine
from export.engines.openvino_bf16 import check_pins, held_names, hold_in_fp32, mark_ir
from export.engines.spec import EngineSpec
from export.graph.layers import read_layers
from export.onnx_export import FP32_TENSORS, INPUT, OUTPUT, set_metadata
from export.quantize.fp32_tensors import list_fp32_tensors
from export.quantize.int8 import QuantizeOptions, quantize_int8
from export.runner import Unavailable

openvino = pytest.importorskip("openvino")
LAST = "last"  # a node that is not pinned


@pytest.fixture(scope="module")
def images(image_root: Path, spec: Preprocess) -> NDArray[np.uint8]:
    return load_batch(list(read_split(image_root, "train").paths), spec)


@pytest.fixture(scope="module")
def graphs(small_onnx: Path, images: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fp32.onnx`, and INT8 under two policies, the second with the performer's kernel itself; `bf16.onnx` and so on of each."""
    folder = tmp_path_factory.mktemp("graphs")
    shutil.copy(small_onnx / "fp32.onnx", folder)
    calibration = CalibrationSet(images, np.zeros(len(images), np.int64))
    quantize_int8(folder / "fp32.onnx", folder / "int8.onnx", calibration)
    quantize_int8(folder / "fp32.onnx", folder / "full.onnx", calibration, QuantizeOptions(policy="full"))
    for name, listed in (("fp32", "bf16"), ("int8", "int8-bf16"), ("full", "full-bf16")):
        onnx.save(list_fp32_tensors(onnx.load(folder / f"{name}.onnx")), folder / f"{listed}.onnx")
    return folder


def executed(path: Path) -> Any:
    """The graph that OpenVINO executes of an IR in BF16."""
    core = openvino.Core()
    return core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}).get_runtime_model()


def in_attentions(path: Path) -> int:
    """Products in BF16 that are no nodes of their own: a CPU that has BF16 computes both of an attention in one."""
    nodes = executed(path).get_ordered_ops()
    return 2 * sum(
        told(node, "layerType") == ["Subgraph"] and told(node, "runtimePrecision") == ["bf16"] for node in nodes
    )


def told(node: Any, key: str) -> list[str]:
    return node.get_rt_info()[key].astype(str).split(",")


@pytest.mark.usefixtures("emulated_bf16")
@pytest.mark.parametrize("name", ["bf16", "int8-bf16", "full-bf16"])
def test_the_kernel_is_executed_in_fp32(graphs: Path, tmp_path: Path, name: str) -> None:
    """Every exponential, product, quotient and moment, with what OpenVINO makes of it."""
    proto = onnx.load(graphs / f"{name}.onnx")
    kernel = {layer.name: layer.operator for layer in performer_kernel(read_layers(proto))}
    engine = openvino_backend.build(graphs / f"{name}.onnx", tmp_path / "engine.xml", bf16=True)
    listed = set(held_names(openvino.Core().read_model(engine.path)))
    found: dict[str, set[str]] = {}
    for node in executed(engine.path).get_ordered_ops():
        for own in listed & set(told(node, "originalLayersNames")):
            found.setdefault(own, set()).update(told(node, "runtimePrecision"))
    assert set(found) == listed and {"bf16", "f16"}.isdisjoint(set.union(*found.values()))
    operators = [kernel[own] for own in found if own in kernel]
    if name != "full-bf16":  # there most products of the kernel are in INT8
        assert operators.count("MatMul") == 8 and operators.count("Conv") == 6 and operators.count("Div") == 4
    assert operators.count("Exp") == 6 and operators.count("Sqrt") == 2 and operators.count("ReduceMean") == 8
    assert engine.layers is not None and engine.layers["bf16"] + in_attentions(engine.path) > (
        0 if name == "full-bf16" else 8
    )
    assert (engine.layers["int8"] > 10) == (name != "bf16")


@pytest.mark.usefixtures("emulated_bf16")
@pytest.mark.parametrize("name", ["bf16", "int8-bf16"])
def test_it_computes_its_graph(graphs: Path, images: NDArray[np.uint8], tmp_path: Path, name: str) -> None:
    """In FP32 the rewritten engine is the graph; in BF16 it is as near as eight bits of precision are."""
    engine = openvino_backend.build(graphs / f"{name}.onnx", tmp_path / "engine.xml", bf16=True)
    feeds = {INPUT: images}
    with onnxruntime_backend.load(graphs / f"{name}.onnx", 1, literal=True) as runner:
        expected = runner.infer(feeds)[OUTPUT]
    for low, most in ((False, 0.3 if name == "int8-bf16" else 1e-3), (True, 0.3)):
        with openvino_backend.load(engine.path, 1, bf16=low) as runner:
            difference = np.abs(runner.infer(feeds)[OUTPUT] - expected)
        assert difference.max() < most, f"bf16 {low}: max {difference.max():.2e}, mean {difference.mean():.2e}"
        assert low == (difference.max() > 1e-4) or name == "int8-bf16"


@pytest.mark.usefixtures("emulated_bf16")
def test_a_lost_pin_is_no_engine(graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as here:
        here.setattr(openvino_backend, "mark_ir", lambda *_: None)
        with pytest.raises(RuntimeError, match=r"OpenVINO computes \d+ operations in BF16 that stay in FP32: \['node_"):
            openvino_backend.build(graphs / "bf16.onnx", tmp_path / "engine.xml", bf16=True)
    assert not (tmp_path / "engine.xml").exists()
    engine = openvino_backend.build(graphs / "bf16.onnx", tmp_path / "engine.xml", bf16=True)
    engine.path.write_text(engine.path.read_text().replace('name="precise"', 'name="imprecise"'))
    with pytest.raises(RuntimeError, match="in BF16 that stay in FP32"):
        openvino_backend.load(engine.path, 1, bf16=True)
    model = openvino.Core().read_model(engine.path)
    model.set_rt_info('["node_99999"]', ["t2t_edge", "fp32_operations"])
    with pytest.raises(
        RuntimeError, match=r"executes 1 operations that stay in FP32 as something else: \['node_99999'"
    ):
        check_pins(executed(engine.path), model)
    proto = onnx.load(graphs / "bf16.onnx")
    set_metadata(proto, {FP32_TENSORS: '["mean_1", "no_tensor"]'})
    onnx.save(proto, tmp_path / "wrong.onnx")
    with pytest.raises(RuntimeError, match=r"has not \d of the tensors that stay in FP32: .*'no_tensor'"):
        openvino_backend.build(tmp_path / "wrong.onnx", tmp_path / "wrong.xml", bf16=True)
    with pytest.raises(RuntimeError, match="does not list what stays in FP32"):
        openvino_backend.build(graphs / "fp32.onnx", tmp_path / "unlisted.xml", bf16=True)


def test_the_graph_lists_the_kernel_and_the_pixels(graphs: Path) -> None:
    source, listed = onnx.load(graphs / "fp32.onnx"), onnx.load(graphs / "bf16.onnx")
    assert list(source.graph.node) == list(listed.graph.node)
    (names,) = (json.loads(prop.value) for prop in listed.metadata_props if prop.key == FP32_TENSORS)
    makers = {name: node.name for node in source.graph.node for name in node.output}
    kernel = [layer.name for layer in performer_kernel(read_layers(source))]
    assert [makers[name] for name in names] == ["node_00003", "node_00004", *kernel] and len(kernel) > 90
    assert {node.name: node.op_type for node in source.graph.node}["node_00004"] == "Mul"


def test_a_network_without_a_performer_lists_nothing(transformer_onnx: Path) -> None:
    listed = list_fp32_tensors(onnx.load(transformer_onnx / "fp32.onnx"))
    assert [prop.value for prop in listed.metadata_props if prop.key == FP32_TENSORS] == ["[]"]


@pytest.mark.usefixtures("emulated_bf16")
def test_a_network_without_a_performer_is_all_bf16(transformer_onnx: Path, tmp_path: Path) -> None:
    onnx.save(list_fp32_tensors(onnx.load(transformer_onnx / "fp32.onnx")), tmp_path / "bf16.onnx")
    layers = openvino_backend.build(tmp_path / "bf16.onnx", tmp_path / "engine.xml", bf16=True).layers
    assert layers is not None and layers["bf16"] > 20 and layers["fp32"] == 0


Arrays = NDArray[np.float32]
OPERATORS: dict[str, tuple[list[str], Callable[[Arrays, Arrays], Arrays]]] = {
    "Sub": (["x", "y"], lambda x, y: x - y),
    "Sub, constant": (["x", "c"], lambda x, y: x - 3),
    "Div": (["x", "y"], lambda x, y: x / y),
    "Div, constant": (["x", "c"], lambda x, y: x / 3),
    "Reciprocal": (["y"], lambda x, y: 1 / y),
    "Clip": (["x", "", "c"], lambda x, y: np.minimum(x, 3)),
    "Clip, both": (["x", "d", "c"], lambda x, y: np.clip(x, -1, 3)),
    "MatMul": (["x", "y"], lambda x, y: x @ y),
    "MatMul, transposed": (["x", "t"], lambda x, y: x @ y.transpose(0, 2, 1)),
}


@pytest.mark.usefixtures("emulated_bf16")
@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operation_is_held(tmp_path: Path, kind: str) -> None:
    """One operation between two that are not held: it computes what it did, and nothing of it in BF16."""
    inputs, function = OPERATORS[kind]
    nodes = [
        helper.make_node("Transpose", ["y"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node(kind.split(",")[0], inputs, ["z"], "held"),
        helper.make_node("MatMul", ["z", "w"], [OUTPUT], LAST),
    ]
    constants = {"c": np.float32(3), "d": np.float32(-1), "w": np.eye(32, dtype=np.float32)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32, 32]) for name in ("x", "y", OUTPUT)]
    graph = helper.make_graph(
        nodes if "t" in inputs else nodes[1:], "one", values[:2], values[2:],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    set_metadata(proto, {FP32_TENSORS: '["z"]'})
    onnx.save(proto, tmp_path / "one.onnx")
    model = openvino.Core().read_model(tmp_path / "one.onnx")
    hold_in_fp32(model)
    openvino.save_model(model, tmp_path / "one.xml", compress_to_fp16=False)
    names = held_names(model)
    assert names[-1] == "held"
    mark_ir(tmp_path / "one.xml", names)
    check_pins(executed(tmp_path / "one.xml"), model)
    x, y = np.random.default_rng(0).uniform(0.5, 4, (2, 2, 32, 32)).astype(np.float32)
    core = openvino.Core()
    compiled = core.compile_model(tmp_path / "one.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"x": x, "y": y})[0]
    np.testing.assert_allclose(found, function(x, y), rtol=1e-5)


MISSING = "this CPU has no BF16 instructions: neither AVX512_BF16 nor AMX_BF16"


@pytest.mark.parametrize("flags", ["avx512f avx512_vnni", ""])
def test_without_bf16_instructions_it_is_unavailable(
    graphs: Path, spec: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    monkeypatch.setattr(cpu, "cpu_facts", lambda: {"flags": flags} if flags else {})
    engine = EngineSpec("openvino", "bf16", None, (1, 1, 8))
    with pytest.raises(Unavailable, match=MISSING):
        build_engine(engine, graphs / "bf16.onnx", tmp_path / engine.name, spec, ["a", "b", "c"])


@pytest.mark.usefixtures("emulated_bf16")
def test_an_engine_from_a_cpu_with_bf16(
    graphs: Path, spec: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar says that it is in BF16: it is loaded so, and not at all where the CPU has none."""
    engine, asked = EngineSpec("openvino", "int8-bf16", None, (1, 1, 8)), []
    sidecar = build_engine(engine, graphs / "int8-bf16.onnx", tmp_path / engine.name, spec, ["a", "b", "c"])
    assert sidecar.layers is not None and sidecar.layers["int8"] > 5
    assert sidecar.layers["bf16"] + in_attentions(tmp_path / engine.name / "engine.xml") > 5
    check = openvino_bf16.check_pins
    monkeypatch.setattr(
        openvino_backend, "check_pins", lambda *given: (asked.append(held_names(given[1])), check(*given))
    )
    load_engine(tmp_path / engine.name, 1)[1].__exit__(None, None, None)
    assert len(asked) == 1 and len(asked[0]) > 90
    monkeypatch.setattr(openvino_backend, "bf16_instructions", list)
    with pytest.raises(Unavailable, match=MISSING):
        load_engine(tmp_path / engine.name, 1)
