"""FP16 with the casts in the graph (nvidia-modelopt's AutoCast), the performer's kernel pinned to FP32."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from calib.calibration import CalibrationSet
from export.graph.layers import tensor_shapes, tensor_types
from export.onnx_export import INPUT
from export.quiet import quiet

RANGE_IMAGES = 32  # calibration images, evenly spaced, whose activations AutoCast holds against FP16's range
# All of them at once, and several times that on the way: fewer images where a network is large, 2 at least.
MAX_RANGE_BYTES = 2**30


def cast_fp16(source: Path, target: Path, calibration: CalibrationSet, pinned: list[str]) -> None:
    """Write `source` in FP16 (inputs and outputs keep their types) to `target`, the nodes named `pinned` in FP32.

    RuntimeError if the final graph runs a pinned node in FP16, or nothing in FP16.
    """
    proto = onnx.load(source)
    with tempfile.TemporaryDirectory() as scratch, quiet():
        from modelopt.onnx.autocast import convert_to_mixed_precision

        data = Path(scratch) / "calibration.npz"
        size = _fixed_batch(proto)
        images = calibration.spread(size or range_images(proto)).images
        if size:
            images = images[np.arange(size) % len(images)]
        np.savez(data, **{INPUT: images})  # type: ignore[arg-type]
        cast = convert_to_mixed_precision(
            str(source),
            low_precision_type="fp16",
            nodes_to_exclude=[f"^{name}$" for name in pinned],
            keep_io_types=True,
            calibration_data=str(data),
        )
    del cast.metadata_props[:]
    cast.metadata_props.extend(proto.metadata_props)
    _keep_node_metadata(proto, cast)
    check_pins(cast, set(pinned))
    onnx.checker.check_model(cast, full_check=True)
    types = tensor_types(cast)
    if TensorProto.FLOAT16 not in types.values():
        raise RuntimeError("nothing in the FP16 graph computes in FP16")
    onnx.save(cast, target)


def _fixed_batch(proto: onnx.ModelProto) -> int:
    """The only batch size that the graph takes; 0 where it takes any."""
    return int(proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def range_images(proto: onnx.ModelProto) -> int:
    """As many images as AutoCast, which keeps every activation of every image in FP32, has the memory for."""
    shapes = tensor_shapes(proto)
    one = 4 * sum(int(np.prod(shape[1:], dtype=np.int64)) for shape in shapes.values() if shape and shape[0] == 0)
    return max(2, min(RANGE_IMAGES, MAX_RANGE_BYTES // max(one, 1)))


def _keep_node_metadata(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """The cast drops it, and an engine's layers could no longer be traced to modules."""
    metadata = {node.name: node.metadata_props for node in before.graph.node}
    for node in after.graph.node:
        if node.name in metadata:
            del node.metadata_props[:]
            node.metadata_props.extend(metadata[node.name])


def check_pins(proto: onnx.ModelProto, pinned: set[str]) -> None:
    """RuntimeError unless every pinned node is still there and takes and gives no FP16."""
    types = tensor_types(proto)
    nodes = {node.name: node for node in proto.graph.node}
    if missing := pinned - set(nodes):
        raise RuntimeError(f"pinned nodes are gone from the FP16 graph: {sorted(missing)[:5]}")
    wrong = [
        name
        for name in sorted(pinned)
        if TensorProto.FLOAT16 in {types.get(tensor) for tensor in (*nodes[name].input, *nodes[name].output)}
    ]
    if wrong:
        raise RuntimeError(f"{len(wrong)} pinned nodes compute in FP16: {[(n, nodes[n].op_type) for n in wrong[:5]]}")
