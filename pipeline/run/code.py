"""Our own source files behind a stage, and the packages that decide its result: another version makes another result."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from pipeline.device.modules import ROOT, imported_names, our_files
from pipeline.machine.describe import installed_versions
from pipeline.run.stage import Stage
from pipeline.training.network import import_from_here

_DISTRIBUTIONS = {  # of packages whose version can change what a stage makes, by the name they are imported with
    "torch": "torch", "timm": "timm", "onnx": "onnx", "onnxsim": "onnxsim", "modelopt": "nvidia-modelopt", "numpy": "numpy",
    "cv2": "opencv-python-headless",
}  # fmt: skip


def code_of(stage: Stage, factory: str | None) -> str:
    """Hash of the source files that the stage's code imports, directly or through others, and of the file of `factory`, where
    the recipe names its network by "package.module:callable"."""
    digest = hashlib.sha256(_digest(stage.run.__module__).encode())
    if factory is not None and "model" in stage.parts and (path := _factory_file(factory)) is not None:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def packages_of(stage: Stage) -> dict[str, str | None]:
    """The installed versions of the packages that decide its result, by the names of their distributions."""
    return dict(_packages(stage.run.__module__))


@cache
def _digest(module: str) -> str:
    """Of the files' places and bytes. Read once a process: that is what it runs."""
    digest = hashlib.sha256()
    for place in source_files(module):
        digest.update(f"{place.as_posix()}\n".encode() + (ROOT / place).read_bytes())
    return digest.hexdigest()


@cache
def _packages(module: str) -> tuple[tuple[str, str | None], ...]:
    python = [place for place in source_files(module) if place.suffix == ".py"]
    imported = {name.split(".")[0] for place in python for names in imported_names(ROOT / place) for name in names}
    wanted = tuple(distribution for name, distribution in _DISTRIBUTIONS.items() if name in imported)
    return tuple(installed_versions(wanted).items())


@cache
def source_files(module: str) -> tuple[Path, ...]:
    """The files behind `module` (dotted), relative to the checkout and sorted: ours, and the templates beside them."""
    found: set[Path] = set()
    todo = our_files([module])
    while todo:
        place = todo.pop()
        if place in found:
            continue
        found.add(place)
        templates = (ROOT / place).parent / "templates"
        found |= {path.relative_to(ROOT) for path in templates.rglob("*") if path.is_file()}
        todo += [file for names in imported_names(ROOT / place) for file in our_files(names)]
    return tuple(sorted(found))


def _factory_file(factory: str) -> Path | None:
    """The file of a recipe's own network; None where there is none that can be found: the check before a run names that."""
    import_from_here()
    try:
        spec = importlib.util.find_spec(factory.partition(":")[0])
    except Exception:  # the user's code: a package is imported to find what is in it
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None and Path(spec.origin).is_file() else None
