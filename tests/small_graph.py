"""A network of few nodes, as the export stage would have written it: what each of them computes can be checked with numpy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calib.preprocess import Preprocess
from export.onnx_export import CLASSES_KEY, INPUT, OUTPUT, PREPROCESS_KEY, set_metadata

CLASSES = ["class_0", "class_1", "class_2"]


def write_graph(
    path: Path, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray], spec: Preprocess
) -> None:
    """`nodes` take `patches`, (B, 16, 192) float32 of images (B, 32, 32, 3), and make `OUTPUT`, (B, 3).

    Beside `constants` there is `axes`, the tokens' axis for a ReduceMean.
    """
    patches = [
        helper.make_node("Cast", [INPUT], ["values"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["values", "shape"], ["patches"], name="reshape"),
    ]
    all_constants = {"shape": np.array([0, 16, 192]), "axes": np.array([1]), **constants}
    graph = helper.make_graph(
        [*patches, *nodes], "small",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", 32, 32, 3])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(values, name) for name, values in all_constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    set_metadata(proto, {PREPROCESS_KEY: json.dumps(spec.to_dict()), CLASSES_KEY: json.dumps(CLASSES)})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
