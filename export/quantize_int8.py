"""INT8 by explicit Q/DQ with nvidia-modelopt, on exactly the nodes a policy chose."""

import tempfile
from pathlib import Path

import onnx

from calib.calibration import CalibrationSet
from calib.policy import MIN_CHANNELS, Decision, weights_policy
from export.layers import read_layers
from export.onnx_export import INPUT
from export.quiet import quiet


def quantize_int8(source: Path, target: Path, calibration: CalibrationSet, *, method: str = "max") -> list[Decision]:
    """Write `source` with Q/DQ around its weight layers to `target`, the rest left in FP32; returns what was decided.

    Weights per channel, activations per tensor, both symmetric. RuntimeError where the result is not what was asked.
    """
    proto = onnx.load(source)
    decisions = weights_policy(read_layers(proto))
    wanted = [decision.layer.name for decision in decisions if decision.int8]
    if not wanted:
        raise RuntimeError(f"the policy found no weight layer in {source.name}: nothing would be quantized")
    with tempfile.TemporaryDirectory() as scratch, quiet():
        from modelopt.onnx.quantization import quantize

        quantize(
            str(source),
            quantize_mode="int8",
            calibration_data={INPUT: calibration.images},
            calibration_method=method,
            calibration_eps=["cpu"],  # a fresh list: modelopt's default is one mutable list
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_quantize=[f"^{name}$" for name in wanted],  # modelopt matches by prefix: anchored
            high_precision_dtype="fp32",
            output_path=str(Path(scratch) / "int8.onnx"),
            log_level="ERROR",
        )
        quantized = onnx.load(Path(scratch) / "int8.onnx")
    decisions = _confirm(quantized, decisions)
    onnx.checker.check_model(quantized, full_check=True)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(proto.metadata_props)
    onnx.save(quantized, target)
    return decisions


def _confirm(quantized: onnx.ModelProto, decisions: list[Decision]) -> list[Decision]:
    """Hold the final graph against the policy: tools drop inclusions and exclusions silently.

    Narrow convolutions may be left out by modelopt's own rules, and then say so; any other difference is an error.
    """
    dequantized = {node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    got = {node.name for node in quantized.graph.node if all(name in dequantized for name in node.input[:2])}
    confirmed = []
    for decision in decisions:
        layer = decision.layer
        if decision.int8 and layer.name not in got and layer.operator == "Conv" and layer.narrow:
            decision = Decision(layer, False, f"narrower than {MIN_CHANNELS} channels: modelopt leaves it out")
        if decision.int8 != (layer.name in got):
            raise RuntimeError(f"modelopt did not follow the policy at {layer}: asked for INT8 {decision.int8}")
        confirmed.append(decision)
    return confirmed
