"""On the device: the recommended engine as a model repository for a Triton server on this machine."""

import os
import shutil
from pathlib import Path
from typing import Any

from export.engines.sidecar import read_sidecar
from pipeline.device.contents import TRITON
from pipeline.device.state import DeviceState
from pipeline.device.triton_repository import PLATFORMS, VERSION_COMPATIBLE, TritonModel, model_name, write_model


def write_triton(state: DeviceState, report: dict[str, Any]) -> str:
    """Write `triton/` with the engine that `report` recommends, whole or not at all; returns a line that says where it is
    or why there is none.

    That of an earlier report is deleted first: its engine may no longer exist, or may fail the gate now.
    """
    folder = state.work / TRITON
    if folder.exists():
        shutil.rmtree(folder)
    chosen = report["recommended"]
    if chosen is None:
        return "triton: none, because no engine is recommended"
    if chosen["backend"] not in PLATFORMS:
        return f"triton: none, because the server has no backend for {chosen['backend']}"
    (row,) = [variant for variant in report["variants"] if variant["name"] == chosen["name"]]
    return _write(state, row, folder)


def _write(state: DeviceState, row: dict[str, Any], folder: Path) -> str:
    bundle, engine = state.bundle, state.engine(row["name"])
    sidecar = read_sidecar(engine, state.expected(row))
    options = sidecar.build_options()
    if options is not None and options.strip_weights:
        return f"triton: none, because the server cannot put weights into {row['name']}, built with strip_weights"
    (spec,) = [spec for spec in bundle.engine_specs(row["backend"], sidecar.target) if spec.name == row["name"]]
    model = TritonModel(
        model_name(bundle.recipe.run), row["backend"], bundle.spec, sidecar.classes, spec.batch_sizes[2],
        row["images_per_s"] or {}, version_compatible=options is not None and options.version_compatible,
        fixed_batch=bundle.recipe.fixed_batch,
        output=bundle.task.output_shape(len(sidecar.classes), (bundle.spec.height, bundle.spec.width)),
    )  # fmt: skip
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_model(model, engine / sidecar.engine, partial)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    flag = f" {VERSION_COMPATIBLE}" if model.version_compatible else ""
    return f"triton: tritonserver --model-repository={folder}{flag}"
