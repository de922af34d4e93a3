"""INT8 and FP16 graphs: exactly the layers the policy names, the pinned kernel in FP32, engines that agree."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from calib.calibration import CalibrationSet, spread
from calib.images import read_split
from calib.precision.policy import decide, performer_kernel
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend, openvino_backend
from export.graph.layers import count_precisions, read_layers
from export.onnx_export import INPUT, OUTPUT, read_metadata
from export.quantize import cast_fp16 as cast_fp16_file
from export.quantize.cast_fp16 import RANGE_IMAGES, cast_fp16, check_pins, range_images
from export.quantize.int8 import quantize_int8

CLASSES = ["class_0", "class_1", "class_2"]


@pytest.fixture(scope="module")
def calibration(image_root: Path, spec: Preprocess) -> CalibrationSet:
    split = read_split(image_root, "train")
    return CalibrationSet(load_batch(list(split.paths), spec), np.asarray(split.labels))


@pytest.fixture(scope="module")
def graphs(small_onnx: Path, calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    shutil.copy(small_onnx / "fp32.onnx", folder)
    pinned = [layer.name for layer in performer_kernel(read_layers(onnx.load(folder / "fp32.onnx")))]
    found = quantize_int8(folder / "fp32.onnx", folder / "int8.onnx", calibration)
    (folder / "wanted.txt").write_text("\n".join(of.layer.name for of in found.decisions if of.int8))
    cast_fp16(folder / "fp32.onnx", folder / "fp16.onnx", calibration, pinned)
    cast_fp16(folder / "int8.onnx", folder / "int8-fp16.onnx", calibration, pinned)
    return folder


def test_policy_takes_weight_layers_and_spares_the_kernel(graphs: Path) -> None:
    decisions = decide(read_layers(onnx.load(graphs / "fp32.onnx")))
    int8 = [decision.layer.module for decision in decisions if decision.int8]
    assert (
        len(int8) == 4 * 4 + 2 * 3 + 1
    )  # blocks: qkv, proj, fc1, fc2; token attentions: proj, mlp; the last soft split
    spared = {(decision.layer.module, decision.reason) for decision in decisions if not decision.int8}
    for module in ("tokens_to_token.attention1", "tokens_to_token.attention2"):
        assert (module, "feeds or belongs to the token attention's kernel") in spared and module not in int8
    assert "head" not in int8


def test_exactly_these_layers_are_int8_per_channel(graphs: Path) -> None:
    source, quantized = onnx.load(graphs / "fp32.onnx"), onnx.load(graphs / "int8.onnx")
    wanted = set((graphs / "wanted.txt").read_text().splitlines())
    assert (
        wanted <= {decision.layer.name for decision in decide(read_layers(source)) if decision.int8}
        and len(wanted) > 20
    )
    makers = {output: node for node in quantized.graph.node for output in node.output}
    constants = {value.name: value for value in quantized.graph.initializer}
    per_channel = 0
    for node in quantized.graph.node:
        dequantized = [makers.get(name) for name in node.input[:2]]
        is_int8 = (
            all(maker is not None and maker.op_type == "DequantizeLinear" for maker in dequantized)
            and len(dequantized) == 2
        )
        assert is_int8 == (node.name in wanted), node.name
        if is_int8:
            per_channel += any(np.prod(constants[maker.input[1]].dims) > 1 for maker in dequantized)
    assert per_channel == len(wanted)
    assert count_precisions(quantized)["int8"] == len(wanted)


def test_pins_hold_and_the_rest_is_fp16(graphs: Path) -> None:
    pinned = {layer.name for layer in performer_kernel(read_layers(onnx.load(graphs / "fp32.onnx")))}
    assert len(pinned) > 50
    for name in ("fp16", "int8-fp16"):
        proto = onnx.load(graphs / f"{name}.onnx")
        check_pins(proto, pinned)
        assert count_precisions(proto)["fp16"] > 5
        assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
        assert proto.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_lost_pin_is_found(graphs: Path) -> None:
    proto = onnx.load(graphs / "fp16.onnx")
    low = next(node.name for node in proto.graph.node if node.op_type == "MatMul" and node.name not in
               {layer.name for layer in performer_kernel(read_layers(onnx.load(graphs / "fp32.onnx")))})  # fmt: skip
    with pytest.raises(RuntimeError, match="compute in FP16"):
        check_pins(proto, {low})
    with pytest.raises(RuntimeError, match="are gone"):
        check_pins(proto, {"node_99999"})


def test_autocast_looks_at_images_of_every_class(
    graphs: Path, calibration: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set is sorted by class, and a class that is not looked at may be the one that overflows FP16."""

    def convert(source: str, *, calibration_data: str, **_: object) -> None:
        with np.load(calibration_data) as stored:
            assert (stored[INPUT] == calibration.take(spread(60, 32))).all()
        raise InterruptedError  # all that is asked here

    monkeypatch.setattr("modelopt.onnx.autocast.convert_to_mixed_precision", convert)
    with pytest.raises(InterruptedError):
        cast_fp16(graphs / "fp32.onnx", tmp_path / "fp16.onnx", calibration, [])


def test_metadata_travels(graphs: Path, spec: Preprocess) -> None:
    for path in graphs.glob("*.onnx"):
        assert read_metadata(onnx.load(path)) == (spec, CLASSES), path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_openvino_computes_what_onnxruntime_does(
    graphs: Path, calibration: CalibrationSet, tmp_path: Path, precision: str
) -> None:
    source = graphs / f"{precision}.onnx"
    engine = openvino_backend.build(source, tmp_path / openvino_backend.ENGINE_NAME)
    assert engine.layers is not None and (engine.layers["int8"] > 20) == (precision == "int8")
    with openvino_backend.load(engine.path, 2) as first, onnxruntime_backend.load(source, 2) as second:
        assert first.inputs == second.inputs and first.outputs == second.outputs
        feeds = {INPUT: calibration.images}
        ours, expected = first.infer(feeds)[OUTPUT], second.infer(feeds)[OUTPUT]
        difference = np.abs(ours - expected)
        assert difference.max() < {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.3}[precision], f"max {difference.max():.2e}"
        first.infer({INPUT: calibration.images[::-1].copy()})
        assert (np.abs(ours - expected) == difference).all()  # outputs are the caller's: a later call leaves them alone
        with pytest.raises(ValueError, match="uint8"):
            first.infer({INPUT: calibration.images.astype(np.float32)})
        with pytest.raises(ValueError, match="shape"):
            first.infer({INPUT: calibration.images[:, :16]})


def test_autocast_gets_as_many_images_as_there_is_memory_for(
    graphs: Path, calibration: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps every activation of every image: 32 of a network like T2T-ViT-24 at 224 px would take 20 GB."""
    proto = onnx.load(graphs / "fp32.onnx")
    assert range_images(proto) == RANGE_IMAGES == 32
    monkeypatch.setattr(cast_fp16_file, "MAX_RANGE_BYTES", 0)
    assert range_images(proto) == 2, "at least"
    scores = onnx.ModelProto.FromString(proto.SerializeToString())
    del scores.graph.value_info[:], scores.graph.output[:], scores.graph.node[:]
    value = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["batch", 4, 16, 16])
    scores.graph.value_info.append(value)
    monkeypatch.setattr(cast_fp16_file, "MAX_RANGE_BYTES", 5 * 4 * 4 * 16 * 16)
    assert range_images(scores) == 5
    monkeypatch.setattr(cast_fp16_file, "MAX_RANGE_BYTES", 0)
    cast_fp16(graphs / "fp32.onnx", tmp_path / "fp16.onnx", calibration, [])
    assert (tmp_path / "fp16.onnx").is_file()
