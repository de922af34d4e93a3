"""What the commands share: how one is added to the parser, and which run it is about."""

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib.errors import InputError
from pipeline.commands.outcome import where
from pipeline.console.completers import complete_runs
from pipeline.console.known_runs import NEW_RUN, is_run, no_such_run

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ALLOWED = "letters, digits, . _ -, of which the first is a letter or digit"


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


def add_run_options(command: argparse.ArgumentParser, *, makes_runs: bool = False) -> None:
    """The options that name a run. `makes_runs`: of a command with --recipe, which a run is named after."""
    name = f"the name of --recipe's file without its ending, else {NEW_RUN.stem}" if makes_runs else NEW_RUN.stem
    run = command.add_argument("--run", help=f"name of the folder under runs/; default: {name}")
    run.completer = complete_runs  # type: ignore[attr-defined]
    command.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")


def run_folder(options: argparse.Namespace) -> Path:
    """The folder of the run that the options name; InputError for a name that could lead elsewhere.

    Without --run the run is named after its recipe, and `options.run` is that name from then on.
    """
    if options.run is None:
        options.run = _named_after(getattr(options, "recipe", None) or NEW_RUN)
    if not _NAME.fullmatch(options.run):
        name = Path(options.run).name
        raise InputError(
            "a run's name is a plain folder name", got=options.run, allowed=_ALLOWED,
            next_step=f"--run {name}, and --runs where it is not in runs/" if _NAME.fullmatch(name) else None,
        )  # fmt: skip
    return Path(options.runs / options.run)


def _named_after(recipe: Path) -> str:
    """`other` of recipes/other.yaml, so that no recipe writes over another one's run."""
    if not _NAME.fullmatch(recipe.stem):
        raise InputError(
            "no run can be named after this recipe's file", got=recipe, allowed=_ALLOWED,
            next_step="give the run a name: --run NAME",
        )  # fmt: skip
    return recipe.stem


def command_line(options: argparse.Namespace) -> str:
    """The command as it was called, for other commands' messages."""
    return f"t2t-edge {shlex.join(options.arguments)}"


def run_to_read(options: argparse.Namespace, more: str = "") -> Path:
    """The folder of a run that is there. InputError where it is not, with the runs that are; `more` ends the command then."""
    folder = run_folder(options)
    if not is_run(folder):
        raise no_such_run(folder, lambda name: _command(options, name) + more)
    return folder


def run_to_make(options: argparse.Namespace) -> Path:
    """The folder of a run that stages go on with, or begin. InputError for a run that is not there and has no --recipe: a
    misspelt name must not train the demo under it."""
    folder = run_folder(options)
    if options.recipe is None and options.run != NEW_RUN.stem and not is_run(folder):
        new = None if options.command == "report" else _command(options, options.run, "--recipe FILE ")
        raise no_such_run(folder, lambda name: _command(options, name), new)
    return folder


def _command(options: argparse.Namespace, run: str, before: str = "") -> str:
    """The command of `options` for another run; a dry run stays one."""
    dry = " --dry-run" if getattr(options, "dry_run", False) else ""
    return f"t2t-edge {options.command} {before}{where(argparse.Namespace(run=run, runs=options.runs))}{dry}"
