"""On the device: build engines from a bundle's graphs, each whole or not at all; one that is up to date is kept."""

import shutil
from pathlib import Path
from typing import Any

from calib.errors import InputError
from export.engines.engine import backend_module, backend_version, machine
from export.engines.sidecar import Expected, Sidecar, read_sidecar
from export.engines.spec import EngineSpec
from export.engines.tensorrt.cuda_device import compute_capability
from export.runner import Unavailable
from pipeline.artifact import swap_folder, write_json
from pipeline.device.contents import DEVICE_BACKENDS, Bundle
from pipeline.device.state import ROWS, DeviceState
from pipeline.machine.doctor import without_extra
from pipeline.measure.build_stage import build_row


def choose_backend(bundle: Bundle, asked: str | None) -> str:
    """The backend that was asked for, or the first of TensorRT, TensorRT-RTX, ONNX Runtime, OpenVINO that works here."""
    reasons = {}
    for backend in [asked] if asked else [name for name in DEVICE_BACKENDS if name in bundle.recipe.engines]:
        if backend not in bundle.recipe.engines:
            raise InputError(
                "the bundle has no engines of this backend", got=backend, allowed=", ".join(bundle.recipe.engines),
                next_step="./t2t build",
            )  # fmt: skip
        try:
            backend_module(backend).check_available_to_run()
            return backend
        except Unavailable as reason:
            reasons[backend] = without_extra(str(reason))
            print(f"{backend}: {reasons[backend]}", flush=True)
    raise InputError(
        "no engine of this bundle can be built here", got="; ".join(f"{name}: {why}" for name, why in reasons.items()),
        allowed="TensorRT 10.3 or newer with cuda-bindings, or ONNX Runtime", next_step="./t2t doctor",
    )  # fmt: skip


def build(bundle: Bundle, state: DeviceState, backend: str, names: list[str]) -> list[dict[str, Any]]:
    """Build the engines of a backend, all or those in `names`, and return their rows.

    After each engine its row is written to the work folder, beside those of earlier calls.
    """
    specs = bundle.engine_specs(backend, _target(backend))
    unknown = sorted(set(names) - {spec.name for spec in specs})
    if unknown:
        raise InputError(
            "the bundle has no such engine", got=", ".join(unknown), allowed=", ".join(spec.name for spec in specs),
            next_step="./t2t build",
        )  # fmt: skip
    wanted = [spec for spec in specs if not names or spec.name in names]
    rows = {row["name"]: row for row in state.rows()}
    planned = list(dict.fromkeys([*rows, *(spec.name for spec in wanted)]))
    for spec in wanted:
        rows.pop(spec.name, None)
    for spec in wanted:
        write_json(state.path(ROWS), {"bundle": bundle.key, "planned": planned, "rows": list(rows.values())})
        rows[spec.name] = _keep_or_build(bundle, state, spec)
    write_json(state.path(ROWS), {"bundle": bundle.key, "planned": planned, "rows": list(rows.values())})
    return [rows[spec.name] for spec in wanted]


def _target(backend: str) -> str | None:
    return f"sm{compute_capability().replace('.', '')}" if backend == "tensorrt_rtx" else None


def _keep_or_build(bundle: Bundle, state: DeviceState, spec: EngineSpec) -> dict[str, Any]:
    folder = state.engine(spec.name)
    sidecar = _standing(bundle, spec, folder)
    if sidecar is not None:
        print(f"{spec.name}: unchanged", flush=True)
        return _row(spec, sidecar, folder)
    print(f"{spec.name}: building (TensorRT takes minutes on a Jetson)" if "tensorrt" in spec.backend else
          f"{spec.name}: building", flush=True)  # fmt: skip
    scratch = folder.parent / ".partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        row = build_row(spec, bundle.graph(spec.graph), scratch, bundle.spec, list(bundle.classes), bundle.recipe.task)
        if row["status"] == "built":
            swap_folder(scratch / spec.name, folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{spec.name}: {row['status']}{': ' + row['reason'] if row['reason'] else ''}", flush=True)
    return row


def _standing(bundle: Bundle, spec: EngineSpec, folder: Path) -> Sidecar | None:
    """The sidecar of an engine in `folder` that is up to date: built on this machine from the bundle's graph and options."""
    expected = Expected(bundle.recipe.graphs[spec.graph], bundle.spec.sha256())
    try:
        sidecar = read_sidecar(folder, expected)
    except InputError:  # missing, incomplete or damaged: it is built again
        return None
    gpu = "tensorrt" in spec.backend
    wanted = (
        backend_version(spec.backend), machine(), compute_capability() if gpu else None, spec.build_options,
        spec.batch_sizes if gpu else None,
    )  # fmt: skip
    found = (
        sidecar.version, sidecar.machine, sidecar.compute_capability, sidecar.build_options(), sidecar.batch_sizes,
    )  # fmt: skip
    return sidecar if found == wanted else None


def _row(spec: EngineSpec, sidecar: Sidecar, folder: Path) -> dict[str, Any]:
    return {
        "name": spec.name, "backend": spec.backend, "precision": spec.precision, "target": spec.target,
        "graph": spec.graph,
        "status": "built", "reason": "", "layers": sidecar.layers, "sha256": sidecar.files[sidecar.engine],
        "size_bytes": sum((folder / name).stat().st_size for name in sidecar.files),
    }  # fmt: skip
