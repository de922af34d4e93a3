"""`t2t-edge completion bash|zsh`: Tab completes commands, options, runs, engines and recipes, by the parser itself."""

import argparse
import os
from typing import TYPE_CHECKING

from calib.errors import InputError
from pipeline.commands.command import add_command
from pipeline.console.exit_status import DONE

if TYPE_CHECKING:
    from pipeline.commands.command import Commands

SHELLS = ("bash", "zsh")


def register(commands: "Commands") -> None:
    """Add the command."""
    command = add_command(
        commands, "completion", "a script that lets Tab complete commands, options, runs and engines", print_completion,
        (
            'eval "$(t2t-edge completion bash)"     in this shell; or as a line of ~/.bashrc',
            'eval "$(t2t-edge completion zsh)"      as a line of ~/.zshrc',
        ),
        one_document=False,
    )  # fmt: skip
    command.add_argument("shell", choices=SHELLS)


def print_completion(options: argparse.Namespace) -> int:
    """Print the script for `eval`: it asks `t2t-edge` itself each time Tab is pressed."""
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError as error:
        raise InputError("completion needs argcomplete", got="it is not installed", next_step="make setup") from error

    print(shellcode(["t2t-edge"], shell=options.shell))
    return DONE


def complete_if_asked(parser: argparse.ArgumentParser) -> None:
    """Answer the shell's question and end the process, where it is a shell that runs us for a Tab."""
    if "_ARGCOMPLETE" in os.environ:
        from argcomplete import autocomplete

        autocomplete(parser, always_complete_options="long")
