"""The build stage: an engine for every backend, precision and target of the recipe. One that cannot be built gets its
reason into the report, and the others are built."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.engines.engine import build_engine
from export.engines.sidecar import Sidecar
from export.engines.spec import EngineSpec
from export.engines.tensorrt.options import BuildOptions
from export.runner import DEFAULT_TASK, Unavailable
from pipeline.artifact import Artifact
from pipeline.console.figures import one_line
from pipeline.console.progress import show_build

if TYPE_CHECKING:  # the device side has no pydantic
    from pipeline.recipe import Recipe


def engine_specs(recipe: "Recipe") -> list[EngineSpec]:
    """Every engine the recipe asks for, in its order."""
    return [
        EngineSpec(part.backend, precision, target, part.batch_sizes, BuildOptions(**part.options.model_dump()))
        for part in recipe.build
        for precision in part.precisions
        for target in part.targets or (None,)
    ]


def run(recipe: "Recipe", inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write a folder `<engine>/` for each engine into `folder`; notes["engines"] has a row for each, built or not.

    An engine that does not compute its graph is built again of another, `<engine>.onnx`: see `right_graph`.
    """
    import onnx

    from export.onnx_export import read_metadata, read_task
    from pipeline.measure.right_graph import checked_images, make_right

    proto = onnx.load(inputs["quantize"].path("fp32.onnx"))
    spec, classes = read_metadata(proto)
    images = checked_images(inputs, spec)
    rows = []
    for engine in engine_specs(recipe):
        build = partial(build_row, engine, folder=folder, spec=spec, classes=classes, task=read_task(proto))
        graph = inputs["quantize"].path(f"{engine.graph}.onnx")
        row = make_right(engine, build(graph), graph, folder, images, build)
        detail = row["reason"] or _told(row)
        print(f"           {engine.name:<32} {row['status']}: {detail}", flush=True)
        for text in (row[key] for key in ("alarm", "fault") if key in row):
            print(f"           {text}", flush=True)
        rows.append(row)
    return {"engines": rows}


def _told(row: dict[str, Any]) -> str:
    """Its layers by precision, and what of the graph its backend leaves to slower kernels: `46 fp32; portable: 1 cast`."""
    layers = ", ".join(f"{count} {name}" for name, count in (row["layers"] or {}).items() if count)
    portable = ", ".join(f"{count} {name}" for name, count in row.get("portable", {}).items())
    return f"{layers}; portable kernels: {portable}" if portable else layers


def build_row(
    engine: EngineSpec, onnx_path: Path, folder: Path, spec: Preprocess, classes: list[str], task: str = DEFAULT_TASK
) -> dict[str, Any]:  # fmt: skip
    """Build into `folder/<engine>`; the row describes the engine, or has the reason why there is none."""
    row: dict[str, Any] = {
        "name": engine.name, "backend": engine.backend, "precision": engine.precision, "target": engine.target,
        "graph": engine.graph,
        "status": "built", "reason": "", "layers": None, "size_bytes": None, "sha256": None,
    }  # fmt: skip
    try:
        with show_build(f"building {engine.name}") as progress:
            sidecar = build_engine(engine, onnx_path, folder / engine.name, spec, classes, progress, task)
    except Unavailable as reason:
        return row | {"status": "unavailable", "reason": str(reason)}
    except (RuntimeError, InputError) as error:
        # a builder that refuses the graph: only this engine fails
        return row | {"status": "error", "reason": one_line(str(error))}
    return row | {
        "layers": sidecar.layers,
        "sha256": sidecar.files[sidecar.engine],
        "size_bytes": _size(folder, sidecar, engine),
        **(sidecar.notes or {}),
    }


def _size(folder: Path, sidecar: Sidecar, engine: EngineSpec) -> int:
    return sum((folder / engine.name / name).stat().st_size for name in sidecar.files)
