"""onnxsim after our own folds, guarded: the result is taken only when it computes the same as the raw graph."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.precision.closeness import Closeness, compare_logits
from export.forms.batch_norms import fold_batch_norms
from export.onnx_export import CLASS_KEY, INPUT, MODULE_KEY, name_nodes, node_metadata

# Between the raw and the simplified graph there is less rounding than between programs: the same kernels compute both. Largest
# difference of logits, as it is, or of the largest logit where they are large.
TOLERANCE, RELATIVE = 1e-4, 1e-5

# On (B, T, C) tokens these wrap every Linear in two Reshapes, which engines then have to see through.
SKIPPED = ["fuse_matmul_add_bias_into_gemm", "fuse_matmul_add_bias_into_gemm_batched"]


@dataclass(frozen=True)
class Simplification:
    """What happened: node counts before and after, the largest logit difference, and why if it was not accepted."""

    accepted: bool
    reason: str
    nodes_before: dict[str, int]
    nodes_after: dict[str, int]
    max_difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def simplify_onnx(raw: Path, simplified: Path, images: NDArray[np.uint8]) -> Simplification:
    """Simplify `raw` into `simplified`; where that fails or changes the outputs on `images`, `simplified` is the raw graph."""
    before = onnx.load(raw)
    counts = _count(before)
    try:
        after = _simplify(before)
        found = _compare(before, after, images)
        difference, kept = found.largest, found.largest <= TOLERANCE or found.relative <= RELATIVE
        allowed = f"allowed: {TOLERANCE:g}, or {RELATIVE:g} of the largest"
        reason = "" if kept else f"outputs moved by {difference:.2g}: {found} ({allowed})"
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        after, difference, reason = before, None, f"onnxsim failed: {' '.join(str(error).split())[:300]}"
    if reason:
        onnx.save(before, simplified)
        return Simplification(False, reason, counts, counts, difference)
    onnx.save(after, simplified)
    return Simplification(True, "", counts, _count(after), difference)


def _simplify(before: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    folded = onnx.ModelProto()
    folded.CopyFrom(before)
    fold_batch_norms(folded)
    origin = {
        node.name: (node_metadata(node, MODULE_KEY), node_metadata(node, CLASS_KEY)) for node in folded.graph.node
    }
    after, ok = onnxsim.simplify(folded, skipped_optimizers=SKIPPED)
    if not ok:
        raise RuntimeError("its own check says the simplified graph differs")
    for node in after.graph.node:  # node names survive, node metadata does not
        module, kind = origin.get(node.name, ("", ""))
        del node.metadata_props[:]
        node.metadata_props.add(key=MODULE_KEY, value=module)
        node.metadata_props.add(key=CLASS_KEY, value=kind)
    name_nodes(after)
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    onnx.checker.check_model(after, full_check=True)
    return after


def _compare(before: onnx.ModelProto, after: onnx.ModelProto, images: NDArray[np.uint8]) -> Closeness:
    import onnxruntime

    if size := before.graph.input[0].type.tensor_type.shape.dim[0].dim_value:  # a fixed batch
        images = images[np.arange(size) % len(images)]
    results = [
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {INPUT: images}
        )[0]
        for proto in (before, after)
    ]
    if not np.isfinite(results).all():
        raise ValueError("an output is not finite")
    return compare_logits(*results)


def _count(proto: onnx.ModelProto) -> dict[str, int]:
    counts = Counter(node.op_type for node in proto.graph.node)
    return {"total": counts.total(), **dict(sorted(counts.items()))}
