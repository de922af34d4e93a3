"""A Python that has some packages alone: what else is installed cannot be imported in processes started with this environment."""

import os
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

HOOK = """
import sys

ALLOWED = frozenset({allowed!r})


class Finder:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ALLOWED or top.startswith("_sysconfigdata"):
            return self.finder.find_spec(name, path, target)
        return None

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Finder(finder) for finder in sys.meta_path]
"""


def only(distributions: list[str], own: list[str], folder: Path) -> dict[str, str]:
    """The environment: `distributions` with all that they require, the standard library, and the modules named in `own`."""
    needed = _with_requirements(distributions)
    names = {
        module for module, owners in packages_distributions().items() if {_plain(owner) for owner in owners} & needed
    }
    allowed = sorted({*sys.stdlib_module_names, *names, *own, "sitecustomize", "usercustomize"})
    (folder / "sitecustomize.py").write_text(HOOK.format(allowed=allowed), encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(folder)}


def _with_requirements(distributions: list[str]) -> set[str]:
    found: set[str] = set()
    todo = [_plain(name) for name in distributions]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for line in _requirements(name):
            if "extra ==" not in line:
                todo.append(_plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]))
    return found


def _requirements(name: str) -> list[str]:
    """None for what is not installed, such as a requirement of another system."""
    try:
        return requires(name) or []
    except ModuleNotFoundError:
        return []


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
