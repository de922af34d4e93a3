"""`t2t-edge --version`."""

import argparse
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


class ShowVersion(argparse.Action):
    """Prints the version and ends the program. It is looked up only when it is asked for: each start would pay for it."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version, and end")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Called by the parser where the option stands on the command line."""
        print(f"t2t-edge {our_version()}")
        parser.exit()


def our_version() -> str:
    """X.Y.Z of the installed package; in a checkout that is not installed, what its pyproject.toml says."""
    try:
        return version("t2t-edge")
    except PackageNotFoundError:
        found = re.search(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
        if found is None:
            raise RuntimeError(f"{PROJECT} names no version") from None
        return found[1]
