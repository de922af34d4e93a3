"""What Tab offers for a value on the command line: runs, engines, recipes."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from pipeline.console.known_runs import NEW_RUN, runs_in


def complete_runs(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The names of runs."""
    return runs_in(Path(parsed_args.runs))


def complete_engines(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The engines of the run on the command line, else of the demo."""
    place = Path(parsed_args.runs) / str(parsed_args.run or NEW_RUN.stem) / "build"
    if not place.is_dir():
        return []
    return sorted(found.name for found in place.iterdir() if found.is_dir() and not found.name.startswith("."))


def complete_recipes(prefix: str, **_: object) -> Iterable[str]:
    """YAML files, and folders that may hold some."""
    from argcomplete.completers import FilesCompleter

    names: Iterable[str] = FilesCompleter(("yaml", "yml"))(prefix)
    return names


def complete_folders(prefix: str, **_: object) -> Iterable[str]:
    """Folders."""
    from argcomplete.completers import DirectoriesCompleter

    names: Iterable[str] = DirectoriesCompleter()(prefix)
    return names
