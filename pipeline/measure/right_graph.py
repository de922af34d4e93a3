"""An INT8 engine of a CPU backend that does not compute its graph is built again from one that it computes right.

What is wrong, and how it is avoided: `export.faults`. The other graph stands beside the engine's folder, `<engine>.onnx`: the
engine is evaluated against it, not against the graph of its precision.
"""

import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.calibration import load_calibration_set
from calib.preprocess import Preprocess
from export.engines.spec import CPU_BACKENDS, EngineSpec
from export.faults.computing import on_engine, on_reference
from export.faults.recover import Recovery, recover
from export.faults.without_qdq import quantized_nodes
from pipeline.artifact import Artifact

Row = dict[str, Any]
Images = NDArray[np.uint8]

_IMAGES = 8  # of the calibration set, evenly spaced: an engine that does not compute its graph is wrong on each
_THREADS = 1  # so that the result does not depend on the recipe's number


def checked_images(inputs: Mapping[str, Artifact], spec: Preprocess) -> Callable[[], Images]:
    """Reads, when first asked, the images that engines are compared with the reference on, (N, H, W, 3)."""
    return cache(lambda: load_calibration_set(inputs["calibrate"].path("calibration.npz"), spec).spread(_IMAGES).images)


def make_right(
    engine: EngineSpec, row: Row, graph: Path, folder: Path, images: Callable[[], Images], build: Callable[[Path], Row]
) -> Row:
    """The row of an engine that was built of `graph` into `folder`, after `build` made it again of another graph if need be.

    Such a row has another `graph`, named after the engine, and `left_out`, its nodes that left INT8; where no such graph was
    found, neither. Both have `first_wrong`, what is wrong first, and `fault`, a text about it.
    """
    if row["status"] != "built" or engine.backend not in CPU_BACKENDS or engine.precision.startswith("fp8"):
        return row
    proto = onnx.load(graph)
    if not quantized_nodes(proto):
        return row
    built = proto, folder / engine.name
    try:
        found = recover(proto, on_engine(engine.backend, images(), _THREADS, built), on_reference(images(), _THREADS))
    except RuntimeError as error:  # an engine that is built and does not run: evaluation has that in its row
        print(f"           {engine.name} could not be compared with its graph: {error}", flush=True)
        return row
    if found is None:
        return row
    told = {"first_wrong": _told(found), "fault": _text(engine, found, proto)}
    if found.proto is None:
        return row | told
    own = folder / f"{engine.name}.onnx"
    onnx.save(found.proto, own)
    shutil.rmtree(folder / engine.name)
    return build(own) | told | {"graph": own.stem, "left_out": list(found.left_out)}


def _told(found: Recovery) -> dict[str, Any]:
    wrong = found.wrong
    values = {"node": wrong.node, "operator": wrong.operator, "role": wrong.role, "module": wrong.module}
    numbers = {"snr_db": wrong.measured.snr_db, "allowed_db": wrong.measured.allowed_db}
    return values | {name: round(float(np.clip(number, -999, 999)), 1) for name, number in numbers.items()}


def _text(engine: EngineSpec, found: Recovery, proto: onnx.ModelProto) -> str:
    wrong, measured = found.wrong, found.wrong.measured
    of = f" of module {wrong.module}" if wrong.module else ""
    where = (
        f"{engine.backend} computes {wrong.node} ({wrong.role or wrong.operator}){of} wrong first: {measured.snr_db:.1f} dB "
        f"against ONNX Runtime node by node, at least {measured.allowed_db:.1f}"
    )
    if found.proto is None:
        return f"{where}; taking the layers around it out of INT8 does not help"
    patterns = "; ".join(map(str, found.patterns))
    return (
        f"{where}; so {len(found.left_out)} of its {len(quantized_nodes(proto))} INT8 layers compute in floating point here: "
        f"{patterns}"
    )
