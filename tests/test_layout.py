"""The house: imports point one way, heavy packages are imported in the files that own them, folder names are ours alone."""

import ast
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {"models": set(), "calib": set(), "export": {"calib", "models"}, "pipeline": {"models", "calib", "export"}}
OWNERS = {
    "tensorrt": {"export/engines/tensorrt/backend.py"},
    "tensorrt_rtx_bindings": {"export/engines/tensorrt/rtx_backend.py"},
    "openvino": {"export/engines/openvino_backend.py", "export/engines/openvino_weights.py"},
    "onnxruntime": {"export/engines/onnxruntime_backend.py", "export/simplify.py"},
    "modelopt": {"export/quantize/ranges.py", "export/quantize/cast_fp16.py", "export/quantize/fake_quantize.py"},
    "cv2": {
        "calib/preprocess.py",
        "pipeline/data/dataset.py",
        "pipeline/training/loader.py",
        "pipeline/predict/sources.py",
        "pipeline/predict/annotate.py",
        "pipeline/predict/writers.py",
    },
    "onnxsim": {"export/simplify.py"},
}
FILES = sorted(path for folder in ALLOWED for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """(top-level package, whether it is imported at module level) of every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module.split(".")[0], id(node) in top))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    folder = place.split("/")[0]
    for package, at_top in imports(path):
        if package in ALLOWED and package != folder:
            assert package in ALLOWED[folder], f"{place} imports {package}"
        if package in OWNERS:
            assert place in OWNERS[package] and not at_top, (
                f"{place} imports {package}{' at module level' if at_top else ''}"
            )


def test_the_device_side_imports_no_torch() -> None:
    """What a device runs imports, file by file and transitively, only the standard library, numpy and OpenCV at module level."""
    seen, todo, outside = (
        set(),
        ["pipeline/predict/predict.py", "pipeline/predict/command.py", "pipeline/cli.py"],
        set(),
    )
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        tree = ast.parse((ROOT / place).read_text(encoding="utf-8"))
        for node in tree.body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for module in modules:
                file = module.replace(".", "/") + ".py"
                if (ROOT / file).is_file():
                    todo.append(file)
                elif module.split(".")[0] in {
                    "torch",
                    "timm",
                    "onnx",
                    "pydantic",
                    "rich",
                    "scipy",
                    "matplotlib",
                    "yaml",
                }:
                    outside.add((place, module))
    assert not outside and len(seen) > 6


def test_no_other_distribution_owns_our_folder_names() -> None:
    owners = packages_distributions()
    for folder in ALLOWED:
        assert set(owners.get(folder, [])) <= {"t2t-edge"}, f"{folder}: {owners[folder]}"
