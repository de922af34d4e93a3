"""A network with branches for training: its graph has none, and training with quantization trains what is deployed."""

from pathlib import Path

import numpy as np
import onnx
import torch
from engine_graphs import photographs

from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.merge import merge_branches
from export.onnx_export import export_onnx
from export.quantize.fake_quantize import look
from export.quantize.int8 import QuantizeOptions, apply_policy
from export.simplify import simplify_onnx
from pipeline.parts.model import ModelPart
from pipeline.quantize.export_stage import say_merged
from pipeline.quantize.qat_stage import normalised
from pipeline.training.network import create_network

EMBEDDED = Path(__file__).parents[3] / "data" / "fashion-mnist.npz"
SPEC = Preprocess(64, 64, 1.0, "bilinear", (0.3,) * 3, (0.35,) * 3)


def test_mobileone(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    network = create_network(ModelPart(name="mobileone_s0", image_size=64), 3).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
    deployed, merged, reason = merge_branches(network, SPEC)
    say_merged(merged, reason)
    assert len(merged) == 43 and not reason and "43 modules merged" in capsys.readouterr().out
    calibration: CalibrationSet = photographs(EMBEDDED, 64)
    export_onnx(deployed, SPEC, list("abc"), tmp_path / "raw.onnx")
    assert simplify_onnx(tmp_path / "raw.onnx", tmp_path / "fp32.onnx", calibration.images).accepted
    proto = onnx.load(tmp_path / "fp32.onnx")
    assert [node.op_type for node in proto.graph.node].count("Conv") == 43
    decisions = apply_policy(proto, calibration, QuantizeOptions()).decisions
    placement, _ = look(deployed, proto, decisions, calibration.images, normalised(calibration.images, SPEC), SPEC)
    assert not placement.missed and len(placement.sites) == sum(decision.int8 for decision in decisions) > 20
    with torch.inference_mode():
        images = normalised(calibration.images, SPEC)
        assert np.argmax(deployed(images).numpy(), 1).tolist() == np.argmax(network(images).numpy(), 1).tolist()
