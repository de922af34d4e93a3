"""`t2t-edge doctor`: what is installed and what this machine can build and run."""

import argparse
from typing import TYPE_CHECKING

from pipeline.commands.command import add_command
from pipeline.console.exit_status import DONE, FAILED

if TYPE_CHECKING:
    from pipeline.commands.command import Commands


def register(commands: "Commands") -> None:
    """Add the command; its --json is the table itself."""
    command = add_command(
        commands, "doctor", "what is installed, what this machine can build and run, and how to mend the rest", _doctor,
        ("t2t-edge doctor",), one_document=False,
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="print the table as JSON")


def _doctor(options: argparse.Namespace) -> int:
    from pipeline.machine.doctor import print_doctor

    return DONE if print_doctor(options.json) else FAILED
