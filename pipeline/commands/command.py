"""What the commands share: how one is added to the parser, and which run it is about."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib.errors import InputError
from pipeline.commands.completers import complete_runs

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_command(
    commands: "Commands",
    name: str,
    text: str,
    call: Callable[[argparse.Namespace], int],
    examples: Sequence[str],
    *,
    description: str | None = None,
    one_document: bool = True,
) -> argparse.ArgumentParser:
    """Add the command `name`, which runs `call(options)` and ends with the exit status that this returns.

    `text` stands in the list of commands, `description` and `examples` in the command's own help. With `one_document` it
    takes --json and puts what it has to say into `options.document`; a command without has JSON of its own, or none.
    """
    command = commands.add_parser(
        name, help=text, description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]),
    )  # fmt: skip
    command.set_defaults(call=call, one_document=one_document)
    if one_document:
        command.add_argument("--json", action="store_true", help="print one JSON document; all else goes to stderr")
    return command


def add_run_options(command: argparse.ArgumentParser) -> None:
    """The options that name a run."""
    run = command.add_argument("--run", default="demo", help="name of the folder under runs/; default: %(default)s")
    run.completer = complete_runs  # type: ignore[attr-defined]
    command.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")


def run_folder(options: argparse.Namespace) -> Path:
    """The folder of the run that the options name; InputError for a name that could lead elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", options.run):
        raise InputError("a run's name is a plain folder name", got=options.run, allowed="letters, digits, . _ -")
    return Path(options.runs / options.run)
