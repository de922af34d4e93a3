"""The literal form as ONNX, for comparisons: with the epsilon that PyTorch's exporter leaves out."""

from pathlib import Path

import numpy as np
import onnx
from literal import literal

from calib.preprocess import Preprocess
from export.onnx_export import export_onnx
from models.t2t_vit import T2TViT


def export_literal(model: T2TViT, spec: Preprocess, classes: list[str], path: Path) -> None:
    """Write the literal twin of `model` to `path`, as `export_onnx` does."""
    export_onnx(literal(model).eval(), spec, classes, path)
    if model.variant.token_attention == "performer":
        proto = onnx.load(path)
        restored = restore_epsilon(proto)
        assert restored == 2, f"{restored} divisions by a normaliser, wanted one of each performer"
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, path)


def restore_epsilon(proto: onnx.ModelProto) -> int:
    """Add the literal performer's 1e-8 to its normaliser, in place; returns to how many.

    PyTorch's exporter takes an addition of up to 1e-8 for one of 0 and drops it (onnxscript 0.7.2, rule `add_0`). Without it
    the FP32 graph of a trained network divides 0 by 0 where an image is flat, and no tool can calibrate that.
    """
    made_by = {name: node.op_type for node in proto.graph.node for name in node.output}
    divisions = [n for n in proto.graph.node if n.op_type == "Div" and made_by.get(n.input[1]) == "Unsqueeze"]
    for index, division in enumerate(divisions):
        name = f"with_epsilon_{index}"
        place = list(proto.graph.node).index(division)
        proto.graph.node.insert(place, onnx.helper.make_node("Add", [division.input[1], "epsilon"], [name], name=name))
        proto.graph.node[place + 1].input[1] = name
    if divisions:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e-8), "epsilon"))
    return len(divisions)
