"""`ranges.json`: the ranges that quantization-aware training used, which its graph gets as scales."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from export.quantize.int8 import Quantized
from export.quantize.placement import Floats


def write_ranges(path: Path, found: Quantized, weights: Mapping[str, Floats], weight_bits: int) -> None:
    """Write the ranges of activations in `found` and those of `weights`, by node."""
    content = {
        "weight_bits": weight_bits,
        "activations": {name: found_range.amax for name, found_range in found.ranges.items()},
        "weights": {name: [float(value) for value in amax] for name, amax in weights.items()},
    }
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_ranges(path: Path) -> tuple[dict[str, float], dict[str, Floats]]:
    """The largest magnitudes that `write_ranges` wrote, as `export.quantize.qdq.insert_qdq` takes them: of activations by
    tensor, and of weights by node, one for each output channel."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["activations"], {name: np.asarray(v, np.float32) for name, v in content["weights"].items()}
