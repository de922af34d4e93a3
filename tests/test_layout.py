"""The house: which room may see which, how large a room is, who owns heavy packages, and that folder names are ours alone.

A room is a folder of Python files. The files directly in `export/` and `pipeline/` are rooms of one file each: they stand
between other rooms.
"""

import ast
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("models", "calib", "export", "pipeline")
MOST_FILES = 14  # in a room, its __init__.py apart
# Every room and the rooms that its files import, from the bottom up: a room sees only rooms that stand above it in this table.
SEES: dict[str, set[str]] = {
    "export.padding": set(),
    "export.cpu": set(),
    "models": set(),
    "calib": set(),
    "calib.precision": {"calib"},
    "export.quiet": set(),
    "export.explain": set(),
    "export.unfold": set(),
    "export.runner": set(),
    "export.merge": {"calib", "calib.precision"},
    "export.same_logits": {"calib.precision", "export.runner"},
    "export.torchscript": {"export.padding", "export.runner", "export.same_logits"},
    "export.ways": {
        "export.explain", "export.padding", "export.quiet", "export.runner", "export.same_logits", "export.torchscript",
    },
    "export.onnx_export": {"calib", "export.explain", "export.quiet", "export.runner", "export.unfold", "export.ways"},
    "export.graph": {"calib.precision", "export.onnx_export"},
    "export.program": {"calib", "export.runner"},
    "export.engines.tensorrt": {"calib", "export.graph", "export.runner"},
    "export.engines.executorch": {"export.program", "export.quiet", "export.runner"},
    "export.engines.pytorch": {"export.cpu", "export.program", "export.quiet", "export.runner"},
    "export.engines": {
        "calib", "export.cpu", "export.engines.executorch", "export.engines.pytorch", "export.engines.tensorrt", "export.runner",
    },
    "export.brought": {"calib", "export.engines", "export.onnx_export", "export.padding"},
    "export.forms": {"models", "calib.precision", "export.graph", "export.onnx_export", "export.runner"},
    "export.simplify": {"calib.precision", "export.forms", "export.onnx_export"},
    "export.quantize": {
        "calib", "calib.precision", "export.engines", "export.forms", "export.graph", "export.onnx_export", "export.quiet",
    },
    "export.faults": {"calib.precision", "export.engines", "export.engines.executorch", "export.graph", "export.runner"},
    "pipeline.artifact": {"export.engines"},
    "pipeline.machine": {
        "calib", "export.cpu", "export.engines", "export.engines.executorch", "export.engines.pytorch",
        "export.engines.tensorrt", "export.runner",
    },
    "pipeline.tasks": {"calib", "calib.precision"},
    "pipeline.parts": {"calib", "calib.precision", "export.engines", "pipeline.tasks"},
    "pipeline.recipe": {"calib", "export.engines", "pipeline.parts", "pipeline.tasks"},
    "pipeline.console": {"calib", "export.engines", "export.engines.tensorrt", "pipeline.artifact", "pipeline.parts"},
    "pipeline.training.learning": {"calib", "pipeline.parts", "pipeline.tasks"},
    "pipeline.data": {"calib", "pipeline.console", "pipeline.parts", "pipeline.recipe", "pipeline.tasks"},
    "pipeline.training": {
        "models", "calib", "export.brought", "pipeline.artifact", "pipeline.console", "pipeline.data", "pipeline.parts",
        "pipeline.recipe", "pipeline.tasks", "pipeline.training.learning",
    },
    "pipeline.resolve": {
        "calib", "export.brought", "pipeline.console", "pipeline.data", "pipeline.parts", "pipeline.recipe",
        "pipeline.training", "pipeline.training.learning",
    },
    "pipeline.measure": {
        "calib", "export.cpu", "export.engines", "export.engines.pytorch", "export.engines.tensorrt", "export.faults",
        "export.onnx_export", "export.runner", "pipeline.artifact", "pipeline.console", "pipeline.data", "pipeline.machine",
        "pipeline.recipe", "pipeline.tasks",
    },
    "pipeline.quantize": {
        "calib", "calib.precision", "export.brought", "export.engines", "export.graph", "export.merge",
        "export.onnx_export", "export.quantize", "export.simplify", "export.ways", "pipeline.artifact", "pipeline.console",
        "pipeline.data", "pipeline.parts", "pipeline.recipe", "pipeline.tasks", "pipeline.training",
        "pipeline.training.learning",
    },
    "pipeline.quantize.search": {
        "calib", "calib.precision", "export.engines", "export.engines.tensorrt", "export.graph", "export.onnx_export",
        "export.quantize", "export.runner", "pipeline.artifact", "pipeline.console", "pipeline.data", "pipeline.measure",
        "pipeline.parts", "pipeline.quantize", "pipeline.recipe", "pipeline.tasks", "pipeline.training",
    },
    "pipeline.visualize": {
        "calib", "calib.precision", "export.engines", "export.engines.tensorrt", "export.graph", "export.onnx_export",
        "export.runner", "pipeline.artifact", "pipeline.console", "pipeline.data", "pipeline.recipe",
    },
    "pipeline.report.values": {"calib", "pipeline.artifact", "pipeline.console", "pipeline.parts", "pipeline.tasks"},
    "pipeline.report.page": {
        "pipeline.artifact", "pipeline.console", "pipeline.report.values", "pipeline.tasks", "pipeline.visualize",
    },
    "pipeline.report": {
        "calib", "pipeline.artifact", "pipeline.console", "pipeline.data", "pipeline.recipe", "pipeline.report.page",
        "pipeline.report.values", "pipeline.tasks", "pipeline.training",
    },
    "pipeline.init": {
        "calib", "export.cpu", "export.engines", "export.engines.pytorch", "export.engines.tensorrt", "export.runner",
        "pipeline.console", "pipeline.data", "pipeline.machine", "pipeline.parts", "pipeline.recipe",
    },
    "pipeline.predict": {"calib", "export.cpu", "export.engines", "export.runner", "pipeline.console", "pipeline.tasks"},
    "pipeline.device": {
        "calib", "export.engines", "export.engines.tensorrt", "export.onnx_export", "export.runner", "pipeline.artifact",
        "pipeline.console", "pipeline.data", "pipeline.machine", "pipeline.measure", "pipeline.parts", "pipeline.predict",
        "pipeline.report.values", "pipeline.tasks",
    },
    "pipeline.run": {
        "calib", "export.brought", "export.engines", "pipeline.artifact", "pipeline.console", "pipeline.data",
        "pipeline.device", "pipeline.machine", "pipeline.parts", "pipeline.recipe", "pipeline.training",
        "pipeline.training.learning",
    },
    "pipeline.sweep.outcome": {
        "calib", "pipeline.console", "pipeline.report", "pipeline.report.page", "pipeline.report.values", "pipeline.tasks",
    },
    "pipeline.stages": {
        "pipeline.artifact", "pipeline.data", "pipeline.measure", "pipeline.quantize", "pipeline.quantize.search",
        "pipeline.recipe", "pipeline.report", "pipeline.resolve", "pipeline.run", "pipeline.training", "pipeline.visualize",
    },
    "pipeline.sweep.planning": {
        "calib", "pipeline.artifact", "pipeline.parts", "pipeline.recipe", "pipeline.resolve", "pipeline.run",
        "pipeline.stages",
    },
    "pipeline.sweep.running": {
        "calib", "export.cpu", "pipeline.artifact", "pipeline.console", "pipeline.recipe", "pipeline.resolve",
        "pipeline.run", "pipeline.stages", "pipeline.sweep.planning",
    },
    "pipeline.commands": {
        "models", "calib", "pipeline.artifact", "pipeline.console", "pipeline.data", "pipeline.device",
        "pipeline.init", "pipeline.machine", "pipeline.predict", "pipeline.quantize", "pipeline.recipe", "pipeline.report",
        "pipeline.report.values", "pipeline.resolve", "pipeline.run", "pipeline.stages", "pipeline.sweep.planning",
    },
    "pipeline.sweep": {
        "calib", "pipeline.artifact", "pipeline.commands", "pipeline.console", "pipeline.data", "pipeline.parts",
        "pipeline.recipe", "pipeline.resolve", "pipeline.run", "pipeline.sweep.outcome", "pipeline.sweep.planning",
        "pipeline.sweep.running", "pipeline.tasks", "pipeline.training",
    },
    "pipeline.devices.remote": set(),
    "pipeline.devices": {
        "calib", "export.engines", "pipeline.artifact", "pipeline.commands", "pipeline.console", "pipeline.device",
        "pipeline.devices.remote", "pipeline.measure", "pipeline.parts", "pipeline.report", "pipeline.report.page",
        "pipeline.report.values", "pipeline.run", "pipeline.tasks",
    },
    "pipeline.cli": {"pipeline.commands", "pipeline.console", "pipeline.devices", "pipeline.sweep"},
    "pipeline.__main__": {"pipeline.cli"},
}  # fmt: skip
OWNERS = {
    "tensorrt": {"export/engines/tensorrt/backend.py"},
    "tensorrt_rtx_bindings": {"export/engines/tensorrt/rtx_backend.py"},
    "openvino": {
        "export/engines/openvino_backend.py",
        "export/engines/openvino_weights.py",
        "export/engines/openvino_as_executed.py",
    },
    "onnxruntime": {"export/engines/onnxruntime_backend.py", "export/same_logits.py", "export/simplify.py"},
    "modelopt": {"export/quantize/ranges.py", "export/quantize/cast_fp16.py", "export/quantize/fake_quantize.py"},
    "cv2": {
        "calib/preprocess.py",
        "pipeline/data/archive.py",
        "pipeline/training/loader.py",
        "pipeline/predict/sources.py",
        "pipeline/predict/annotate.py",
        "pipeline/predict/overlay.py",
        "pipeline/predict/writers.py",
    },
    "onnxsim": {"export/simplify.py"},
    "ray": {"pipeline/sweep/running/cluster.py", "pipeline/sweep/running/halving.py"},
    "executorch": {"export/engines/executorch/lower.py", "export/engines/executorch/child.py"},
}
HOST_ONLY = {
    "torch",
    "timm",
    "onnx",
    "pydantic",
    "rich",
    "scipy",
    "matplotlib",
    "yaml",
    "jinja2",
    "argcomplete",
    "filelock",
    "platformdirs",
}
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, whether it is imported at module level) of every import; `package.name` for each name imported from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [(name, id(node) in top) for name in names]
    return found


def room(path: Path) -> str:
    """`pipeline.report` of pipeline/report/write.py; `pipeline.cli` of pipeline/cli.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    alone = len(parts) == 2 and parts[0] in ("export", "pipeline")
    return ".".join(parts if alone else parts[:-1])


def test_rooms_see_what_the_table_says() -> None:
    found: dict[str, set[str]] = {room(path): set() for path in FILES if path.name != "__init__.py"}
    for path in FILES:
        if path.name == "__init__.py":
            continue
        seen = {room(MODULES[name]) for name, _ in imports(path) if name in MODULES}
        assert seen - {room(path)} <= SEES.get(room(path), set()), f"{path.relative_to(ROOT)} sees another room"
        found[room(path)] |= seen - {room(path)}
    assert found == SEES, "a room, or what it sees, is gone: take it out of the table"


def test_between_rooms_there_is_no_circle() -> None:
    order = list(SEES)
    for name, seen in SEES.items():
        assert seen <= set(order[: order.index(name)]), f"{name} sees a room below it in the table"


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_room_is_small_and_says_what_it_is_for(folder: Path) -> None:
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert 0 < len(files) <= MOST_FILES, f"{len(files)} files: a room inside, or another one, is missing"
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    text = ast.get_docstring(tree)
    assert text, "its __init__.py says in three lines what it is for, what comes in and what goes out"
    if folder.parent != ROOT:
        lines = [line for line in text.splitlines() if line]
        assert len(lines) == 3 and lines[1].startswith("In: ") and lines[2].startswith("Out: ")
        assert len(tree.body) == 1, "no other code there"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_imported_by_their_owners_alone(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for name, at_top in imports(path):
        package = name.split(".")[0]
        if package in OWNERS:
            assert place in OWNERS[package] and not at_top, (
                f"{place} imports {package}{' at module level' if at_top else ''}"
            )


def test_the_device_side_imports_no_torch() -> None:
    """What a device runs imports, file by file and transitively, only the standard library, numpy and OpenCV at module level."""
    seen, todo, outside = set(), ["pipeline.predict.predict", "pipeline.predict.command", "pipeline.cli"], set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name, at_top in imports(MODULES[module]):
            if at_top and name in MODULES:
                todo.append(name)
            elif at_top and name.split(".")[0] in HOST_ONLY:
                outside.add((module, name))
    assert not outside and len(seen) > 6


def test_no_other_distribution_owns_our_folder_names() -> None:
    owners = packages_distributions()
    for folder in FOLDERS:
        assert set(owners.get(folder, [])) <= {"t2t-edge"}, f"{folder}: {owners[folder]}"
