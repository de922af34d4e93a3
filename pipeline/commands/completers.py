"""What Tab offers for a value on the command line: runs, engines, recipes."""

import argparse
from collections.abc import Iterable
from pathlib import Path


def complete_runs(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The names of runs."""
    return _folders(Path(parsed_args.runs))


def complete_engines(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The engines of the run on the command line."""
    return _folders(Path(parsed_args.runs) / str(parsed_args.run) / "build")


def complete_recipes(prefix: str, **_: object) -> Iterable[str]:
    """YAML files, and folders that may hold some."""
    from argcomplete.completers import FilesCompleter

    names: Iterable[str] = FilesCompleter(("yaml", "yml"))(prefix)
    return names


def _folders(place: Path) -> list[str]:
    """Names of the folders in `place`, without hidden ones; none where there is no such place."""
    if not place.is_dir():
        return []
    return sorted(found.name for found in place.iterdir() if found.is_dir() and not found.name.startswith("."))
