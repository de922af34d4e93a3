"""Which of our own files a device needs: those that the bundle's entry imports, directly or through other files.

Imports inside functions count too, unless they lead to a package that only a host has (torch, onnx, pydantic, …): some
files hold a stage's `run`, for the host, beside functions for the device.
"""

import ast
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENTRY = "pipeline/device/entry.py"  # becomes the bundle's command `t2t`
OURS = ("calib", "export", "models", "pipeline")
DEVICE_PACKAGES = {"numpy"}  # that a device's files import at module level


def device_modules() -> list[Path]:
    """The files, relative to the checkout and sorted, with every `__init__.py` and without the entry."""
    found: set[Path] = set()
    todo = [Path(ENTRY)]
    while todo:
        place = todo.pop()
        if place in found:
            continue
        found.add(place)
        top, inner = imported_names(ROOT / place)
        todo += [*our_files(top), *(folder / "__init__.py" for folder in place.parents if folder.name)]
        todo += [file for file in our_files(inner) if not host_packages(file)]
    return sorted(found - {Path(ENTRY)})


@cache
def host_packages(place: Path) -> frozenset[str]:
    """The packages that a device lacks among those that importing this file imports, directly or through other files."""
    seen: set[Path] = set()
    packages: set[str] = set()
    todo = [place]
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        names, _ = imported_names(ROOT / file)
        packages |= {name.split(".")[0] for name in names}
        todo += our_files(names)
    return frozenset(packages) - set(OURS) - DEVICE_PACKAGES - set(sys.stdlib_module_names)


@cache
def imported_names(path: Path) -> tuple[list[str], list[str]]:
    """Dotted names that a file imports at module level, and those inside functions; `from a import b` gives `a` and `a.b`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [name for node in tree.body for name in _names(node)]
    inner = [
        name for node in tree.body if not _for_type_checkers(node) for child in ast.walk(node) for name in _names(child)
    ]
    return top, inner


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def our_files(names: Iterable[str]) -> list[Path]:
    """Our own files among dotted names, relative to the checkout; of a package its `__init__.py`."""
    places = [Path(*name.split(".")) for name in names if name.split(".")[0] in OURS]
    files = [place / "__init__.py" if (ROOT / place).is_dir() else place.with_suffix(".py") for place in places]
    return [file for file in files if (ROOT / file).is_file()]
